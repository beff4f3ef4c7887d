/* The floor for a client of a Valkey server: a blocking loop, which does nothing else.

   valkey_loop SOCKET HASH reads lines on standard input, and answers each with the seconds of one
   operation: "call N", N times HGET of the field sk0; "pipeline N BATCH FIELDS", N batches of HINCRBY,
   each of BATCH requests, of the fields sk0, sk1, ... by turns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static char out[1 << 20], in[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(fd, data, size, 0);
        if (n <= 0)
            fail("send");
        data += n;
        size -= (size_t)n;
    }
}

/* Receive until so many lines have come; an error reply ends the program. */
static void receive(int fd, size_t lines) {
    while (lines > 0) {
        ssize_t n = recv(fd, in, sizeof in, 0);
        if (n <= 0)
            fail("recv");
        if (in[0] == '-') {
            fprintf(stderr, "%.*s", (int)n, in);
            exit(1);
        }
        const char *at = in, *end = in + n;
        while ((at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
            at++;
            lines--;
        }
    }
}

/* Put a batch of requests into `out`; return how many bytes. */
static size_t put_batch(const char *hash, size_t batch, size_t fields) {
    char field[30];
    size_t size = 0;
    for (size_t i = 0; i < batch && size < sizeof out - 1000; i++) {
        int length = sprintf(field, "sk%zu", i % fields);
        size += (size_t)sprintf(
            out + size, "*4\r\n$7\r\nHINCRBY\r\n$%zu\r\n%s\r\n$%d\r\n%s\r\n$1\r\n1\r\n", strlen(hash),
            hash, length, field);
    }
    return size;
}

int main(int count, char **words) {
    struct sockaddr_un name;
    char line[100];
    memset(&name, 0, sizeof name);
    name.sun_family = AF_UNIX;
    if (count != 3 || strlen(words[1]) >= sizeof name.sun_path || strlen(words[2]) > 500)
        return 2;
    strcpy(name.sun_path, words[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof name) < 0)
        fail("connect");
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t calls, batch = 1, fields = 1, size, lines;
        if (sscanf(line, "call %zu", &calls) == 1) {
            size = (size_t)sprintf(
                out, "*3\r\n$4\r\nHGET\r\n$%zu\r\n%s\r\n$3\r\nsk0\r\n", strlen(words[2]), words[2]);
            lines = 2; /* the length and the value */
        } else if (sscanf(line, "pipeline %zu %zu %zu", &calls, &batch, &fields) == 3 && fields > 0) {
            size = put_batch(words[2], batch, fields);
            lines = batch;
        } else {
            return 2;
        }
        double start = now();
        for (size_t i = 0; i < calls; i++) {
            send_all(fd, out, size);
            receive(fd, lines);
        }
        printf("%.12f\n", (now() - start) / (double)(calls * batch));
        fflush(stdout);
    }
    return 0;
}
