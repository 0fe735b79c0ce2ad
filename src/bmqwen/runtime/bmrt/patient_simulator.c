/* Loaded before the simulator (LD_PRELOAD): its threads sleep where they would spin.

   Each of the simulator's seven threads waits for work by taking a lock, looking, and taking it again. With fewer
   cores than threads, those that wait keep those that work from running: a token takes seconds instead of tenths.
   A thread that comes back to the same one or two places of libcmodel again and again is waiting; it naps. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

enum { PATIENCE = 50, LONG_WAIT = 4000, NAP_NS = 20000, LONG_NAP_NS = 1000000, SLACK_NS = 1000 };

static int (*take)(pthread_mutex_t *);
static __thread void *last, *last_but_one;
static __thread int rounds;

static int is_simulator(void *code)
{
    Dl_info found;
    return dladdr(code, &found) && found.dli_fname && strstr(found.dli_fname, "libcmodel");
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    void *caller = __builtin_return_address(0);
    if (caller != last && caller != last_but_one) {
        last_but_one = last;
        last = caller;
        rounds = 0;
    } else if (++rounds == PATIENCE) {
        if (is_simulator(caller))
            prctl(PR_SET_TIMERSLACK, SLACK_NS); /* else a nap is three times as long */
        else
            rounds = 0;
    } else if (rounds > PATIENCE) {
        struct timespec nap = {0, rounds < LONG_WAIT ? NAP_NS : LONG_NAP_NS};
        if (rounds >= LONG_WAIT)
            rounds = LONG_WAIT; /* it may wait for days */
        nanosleep(&nap, NULL);
    }
    if (!take)
        *(void **)&take = dlsym(RTLD_NEXT, "pthread_mutex_lock");
    return take(mutex);
}
