/* delay LISTEN TARGET MICROSECONDS: forward connections of 127.0.0.1, each chunk so much later.
 *
 * The delay is the same for all, so chunks leave in the order in which they came: one queue and one
 * timer are enough. Sockets are written to without waiting for room: what the benchmarks send is
 * small. For benchmarks only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, BATCH = 128, SECOND = 1000000000 };

struct side {
    int socket, ended; /* ended: this many directions of the connection; counted on the first side */
    struct side *other, *first;
};

struct chunk {
    struct chunk *next;
    uint64_t due;
    struct side *to;
    size_t size; /* 0: the sender has closed */
    char data[];
};

static struct chunk *oldest, **end = &oldest;
static uint64_t delay;
static int events, timer;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void add(int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(events, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static struct side *side(int fd) {
    int yes = 1;
    struct side *new = calloc(1, sizeof *new);
    if (!new) fail("calloc");
    new->socket = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return new;
}

static void open_both(int listening, struct sockaddr_in *target) {
    int from = accept(listening, NULL, NULL), to = socket(AF_INET, SOCK_STREAM, 0);
    if (from < 0 || to < 0) fail("accept");
    if (connect(to, (struct sockaddr *)target, sizeof *target)) {
        close(from);
        close(to);
        return;
    }
    struct side *a = side(from), *b = side(to);
    a->other = b, b->other = a, a->first = b->first = a;
    add(from, a);
    add(to, b);
}

static void receive(struct side *from) {
    static char buffer[CHUNK];
    ssize_t size = recv(from->socket, buffer, sizeof buffer, 0);
    if (size <= 0) {
        size = 0;
        epoll_ctl(events, EPOLL_CTL_DEL, from->socket, NULL);
    }
    struct chunk *new = malloc(sizeof *new + size);
    if (!new) fail("malloc");
    *new = (struct chunk){.due = now() + delay, .to = from->other, .size = size};
    memcpy(new->data, buffer, size);
    *end = new;
    end = &new->next;
}

static void forward(struct chunk *chunk) {
    struct side *to = chunk->to;
    for (size_t sent = 0; sent < chunk->size;) {
        ssize_t size = send(to->socket, chunk->data + sent, chunk->size - sent, 0);
        if (size < 0) break; /* closed: its own side tells */
        sent += size;
    }
    if (!chunk->size) {
        shutdown(to->socket, SHUT_WR);
        if (++to->first->ended == 2) {
            close(to->socket);
            close(to->other->socket);
            free(to->other);
            free(to);
        }
    }
}

static void forward_what_is_due(void) {
    while (oldest && oldest->due <= now()) {
        struct chunk *chunk = oldest;
        oldest = chunk->next;
        if (!oldest) end = &oldest;
        forward(chunk);
        free(chunk);
    }
    struct itimerspec at = {0};
    if (oldest) at.it_value = (struct timespec){oldest->due / SECOND, oldest->due % SECOND};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int count, char **arguments) {
    if (count != 4) return fprintf(stderr, "usage: delay LISTEN TARGET MICROSECONDS\n"), 2;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in target = at;
    at.sin_port = htons(atoi(arguments[1]));
    target.sin_port = htons(atoi(arguments[2]));
    delay = strtoull(arguments[3], NULL, 10) * 1000;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    int yes = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) || listen(listening, 1024)) fail("bind");
    events = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    add(listening, &listening);
    add(timer, &timer);
    for (;;) {
        struct epoll_event ready[BATCH];
        int found = epoll_wait(events, ready, BATCH, -1);
        for (int i = 0; i < found; i++) {
            void *what = ready[i].data.ptr;
            if (what == &listening) open_both(listening, &target);
            else if (what != &timer) receive(what);
        }
        forward_what_is_due();
    }
}
