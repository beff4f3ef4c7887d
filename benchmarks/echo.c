/* What a call is measured against: messages of the same size, moved by nothing but C.

       echo PAIRS REQUEST REPLY SPIN

   Each of PAIRS servers answers the requests of one client over one Unix socket: a request
   of REQUEST bytes with a reply of REPLY bytes.  Both sleep in recv until something comes,
   after having looked for it for SPIN microseconds.  The client reads a reply into memory
   that it allocates anew each time, for that is where the caller of a manager has it.

   A number on standard input makes all clients run that many exchanges at once; the answer,
   on standard output, is the seconds from the first start to the last end, over the number
   of all exchanges.  At the end of its input, or of its parent, it ends.

   A socketpair serves where a manager listens on a path: once they are connected the two
   are the same to the kernel, and this one leaves nothing behind.  Nor do the processes:
   each end of a socket is held by one process alone, so that the end of the first is read
   as the end of input by its clients, and theirs by their servers. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PAIRS = 64, PARENT_CHECK_MS = 1000 };

/* A reply begins with the number that its request began with. */
typedef uint64_t serial;

typedef struct {
    size_t request, reply;
    int64_t spin_ns;
} exchange;

typedef struct {
    int64_t start, end;
} span;

/* ---- moving bytes ----------------------------------------------------- */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* What recv returns, once something has come or the time for looking is over. */
static ssize_t look(int fd, char *into, size_t room, int64_t spin_ns) {
    int64_t until = now_ns() + spin_ns;
    for (;;) {
        ssize_t n = recv(fd, into, room, MSG_DONTWAIT);
        if (n >= 0 || now_ns() > until)
            return n;
        relax();
    }
}

/* Whether all of it came before the other side ended. */
static int receive(int fd, void *into, size_t size, int64_t spin_ns) {
    size_t got = 0;
    while (got < size) {
        char *at = (char *)into + got;
        ssize_t n = spin_ns ? look(fd, at, size - got, spin_ns) : -1;
        if (n < 0)
            n = recv(fd, at, size - got, 0);
        if (n == 0 || (n < 0 && errno != EINTR))
            return 0;
        if (n > 0)
            got += (size_t)n;
    }
    return 1;
}

static int transmit(int fd, const void *from, size_t size) {
    size_t sent = 0;
    while (sent < size) {
        ssize_t n = send(fd, (const char *)from + sent, size - sent, 0);
        if (n < 0 && errno != EINTR)
            return 0;
        if (n > 0)
            sent += (size_t)n;
    }
    return 1;
}

/* ---- the two sides ---------------------------------------------------- */

static void *filled(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) {
        perror("echo: malloc");
        exit(1);
    }
    return memset(memory, 'x', size); /* every page is there before the first exchange */
}

static void serve(int client, const exchange *what) {
    char *request = filled(what->request);
    char *reply = filled(what->reply);
    while (receive(client, request, what->request, what->spin_ns)) {
        memcpy(reply, request, sizeof(serial));
        if (!transmit(client, reply, what->reply))
            break;
    }
}

static int run(int server, const exchange *what, char *request, uint64_t count) {
    for (serial number = 0; number < count; number++) {
        char *reply = malloc(what->reply);
        memcpy(request, &number, sizeof number);
        int done = reply != NULL && transmit(server, request, what->request) &&
                   receive(server, reply, what->reply, what->spin_ns) &&
                   memcmp(reply, &number, sizeof number) == 0;
        free(reply);
        if (!done)
            return 0;
    }
    return 1;
}

static void ask(int server, int control, const exchange *what) {
    char *request = filled(what->request);
    uint64_t count;
    while (receive(control, &count, sizeof count, 0)) {
        span spent;
        spent.start = now_ns();
        if (!run(server, what, request, count))
            return;
        spent.end = now_ns();
        if (!transmit(control, &spent, sizeof spent))
            return;
    }
}

/* ---- the processes ---------------------------------------------------- */

static void or_die(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

/* Fork; in the child, close what the parent keeps: its standard streams and these. */
static pid_t branch(const int *controls, int pairs, int other_end) {
    pid_t child = fork();
    or_die(child, "echo: fork");
    if (child == 0) {
        close(STDIN_FILENO);
        close(STDOUT_FILENO);
        for (int i = 0; i < pairs; i++)
            close(controls[i]);
        close(other_end);
    }
    return child;
}

/* Start a server and its client; the client is controlled over controls[pairs] from now on. */
static void start_pair(int *controls, int pairs, const exchange *what) {
    int data[2], control[2];
    or_die(socketpair(AF_UNIX, SOCK_STREAM, 0, data), "echo: socketpair");
    if (branch(controls, pairs, data[0]) == 0) {
        serve(data[1], what);
        _exit(0);
    }
    close(data[1]);
    or_die(socketpair(AF_UNIX, SOCK_STREAM, 0, control), "echo: socketpair");
    controls[pairs] = control[0];
    if (branch(controls, pairs + 1, -1) == 0) {
        ask(data[0], control[1], what);
        _exit(0);
    }
    close(data[0]);
    close(control[1]);
}

/* Seconds of one exchange, while every client runs `count` of them; below 0 if one died. */
static double measure(const int *controls, int pairs, uint64_t count) {
    int64_t first = INT64_MAX, last = 0;
    for (int i = 0; i < pairs; i++)
        if (!transmit(controls[i], &count, sizeof count))
            return -1;
    for (int i = 0; i < pairs; i++) {
        span spent;
        if (!receive(controls[i], &spent, sizeof spent, 0))
            return -1;
        if (spent.start < first)
            first = spent.start;
        if (spent.end > last)
            last = spent.end;
    }
    return (double)(last - first) / 1e9 / ((double)count * pairs);
}

/* The next number of standard input; 0 at its end, or at our parent's, of which another process
   that holds a copy of the pipe would not tell. */
static uint64_t next_count(pid_t parent) {
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    char line[32];
    ssize_t n = 0;
    int ready;
    do
        ready = poll(&input, 1, PARENT_CHECK_MS);
    while (getppid() == parent && (ready == 0 || (ready < 0 && errno == EINTR)));
    if (ready > 0)
        n = read(STDIN_FILENO, line, sizeof line - 1); /* a line is written in one piece */
    line[n > 0 ? n : 0] = '\0';
    return strtoull(line, NULL, 10);
}

static size_t argument(const char *text, size_t least, size_t most) {
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    if (*end != '\0' || number < least || number > most) {
        fprintf(stderr, "echo: %s is not from %zu to %zu\n", text, least, most);
        exit(2);
    }
    return (size_t)number;
}

int main(int count, char **arguments) {
    pid_t parent = getppid();
    int controls[MOST_PAIRS];
    int status = 0;
    uint64_t wanted;
    exchange what;
    if (count != 5) {
        fprintf(stderr, "usage: %s PAIRS REQUEST REPLY SPIN\n", arguments[0]);
        return 2;
    }
    int pairs = (int)argument(arguments[1], 1, MOST_PAIRS);
    what.request = argument(arguments[2], sizeof(serial), 1 << 30);
    what.reply = argument(arguments[3], sizeof(serial), 1 << 30);
    what.spin_ns = (int64_t)argument(arguments[4], 0, 1000) * 1000;

    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < pairs; i++)
        start_pair(controls, i, &what);
    while ((wanted = next_count(parent)) > 0) {
        double seconds = measure(controls, pairs, wanted);
        if (seconds < 0) {
            fprintf(stderr, "echo: a client or a server has ended\n");
            status = 1;
            break;
        }
        if (printf("%.12f\n", seconds) < 0 || fflush(stdout) != 0)
            break;
    }
    for (int i = 0; i < pairs; i++)
        close(controls[i]);
    while (wait(NULL) > 0)
        ;
    return status;
}
