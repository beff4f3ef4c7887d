/* How long a cache line takes from one processor to another: two threads, each on a processor of
 * its own, pass a word to and fro.  Prints the nanoseconds of one way, the best of some runs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PASSES = 50000, RUNS = 20 };

static _Alignas(128) atomic_int word;

/* Pass the word on each time that it is this side's: one side has the even numbers. */
static void pass(int side)
{
    for (int i = side; i < PASSES; i += 2) {
        while (atomic_load_explicit(&word, memory_order_acquire) != i) {
        }
        atomic_store_explicit(&word, i + 1, memory_order_release);
    }
}

static void pin(size_t processor)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(1);
    }
}

static void *other(void *processor)
{
    pin(*(size_t *)processor);
    pass(1);
    return NULL;
}

static double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(void)
{
    cpu_set_t allowed;
    size_t found[2];
    int count = 0;
    double best = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        perror("sched_getaffinity");
        return 1;
    }
    for (size_t i = 0; i < CPU_SETSIZE && count < 2; i++) {
        if (CPU_ISSET(i, &allowed)) {
            found[count++] = i;
        }
    }
    if (count < 2) {
        fprintf(stderr, "there is one processor: no cache line passes\n");
        return 1;
    }
    pin(found[0]);
    for (int run = 0; run < RUNS; run++) {
        pthread_t thread;
        atomic_store(&word, 0);
        if (pthread_create(&thread, NULL, other, &found[1]) != 0) {
            perror("pthread_create");
            return 1;
        }
        double start = now_ns();
        pass(0);
        pthread_join(thread, NULL);
        double spent = (now_ns() - start) / PASSES;
        best = run == 0 || spent < best ? spent : best;
    }
    printf("%.0f\n", best);
    return 0;
}
