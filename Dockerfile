# By digest, so that every build has the same base. The newest one, to be taken with each release of
# Python or Debian: docker buildx imagetools inspect python:3.11-slim
FROM python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

# Copied first, so that a change of the code does not install all packages again.
COPY requirements.txt .
# Wheels only: building a package runs its code, and needs a compiler.
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements.txt

COPY storage storage
COPY webapp webapp

# A numeric id, so that Kubernetes can check that it is not root.
USER 10001
EXPOSE 8080
# Connects to where HOST and PORT say that the app listens, and to no HTTP_PROXY, as urllib would.
HEALTHCHECK --start-period=20s --timeout=5s CMD ["python", "-c", "import sys; from http.client import HTTPConnection; from os import environ; host = environ.get('HOST', '').strip(' []'); host = {'': '127.0.0.1', '0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host); it = HTTPConnection(host, int(environ.get('PORT') or 8080), timeout=3); it.request('GET', '/healthz'); sys.exit(it.getresponse().status != 200)"]

# The exec form: SIGTERM is sent to the app, not to a shell.
CMD ["python", "-m", "webapp"]
