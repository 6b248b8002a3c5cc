FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

# Copied first, so that a change of the code does not install all packages again.
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt

COPY storage storage
COPY webapp webapp

# A numeric id, so that Kubernetes can check that it is not root.
USER 10001
EXPOSE 8080
HEALTHCHECK CMD ["python", "-c", "from os import environ; from urllib.request import urlopen; urlopen('http://127.0.0.1:' + environ.get('PORT', '8080') + '/healthz', timeout=3)"]

# The exec form: SIGTERM is sent to the app, not to a shell.
CMD ["python", "-m", "webapp"]
