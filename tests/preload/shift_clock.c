/* A host whose clock is wrong by $CLOCK_SHIFT_S seconds: preload it. Only the wall clock is shifted; the monotonic
   clock, and with it every duration, stays right. x86_64 Linux; no headers, so that the small compiler needs none. */

struct timespec { long sec; long nsec; };
struct timeval { long sec; long usec; };

enum { SYS_GETTIMEOFDAY = 96, SYS_CLOCK_GETTIME = 228 };
enum { REALTIME = 0, REALTIME_COARSE = 5 };

extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern long atol(const char *text);
extern int sem_clockwait(void *semaphore, int clock, const struct timespec *until);

/* Read at each call: a constructor would run before the environment is there. */
static long shift_s(void) {
    const char *text = getenv("CLOCK_SHIFT_S");
    return text ? atol(text) : 0;
}

int clock_gettime(int clock, struct timespec *now) {
    int failed = (int)syscall(SYS_CLOCK_GETTIME, clock, now);
    if (!failed && (clock == REALTIME || clock == REALTIME_COARSE)) now->sec += shift_s();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    int failed = (int)syscall(SYS_GETTIMEOFDAY, now, zone);
    if (!failed && now) now->sec += shift_s();
    return failed;
}

long time(long *told) {
    struct timespec now;
    clock_gettime(REALTIME, &now);
    if (told) *told = now.sec;
    return now.sec;
}

/* The kernel's clock is not shifted, so a wait until an instant of ours must be told to it in its own time
   (Pythons built without sem_clockwait wait so for their locks). */
int sem_timedwait(void *semaphore, const struct timespec *until) {
    struct timespec real = *until;
    real.sec -= shift_s();
    return sem_clockwait(semaphore, REALTIME, &real);
}
