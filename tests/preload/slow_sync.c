/* A disk whose every fsync and fdatasync takes $SLOW_SYNC_MS milliseconds longer: preload it. x86_64 Linux; no
   headers, so that the small compiler needs none. */

struct timespec { long sec; long nsec; };

enum { SYS_NANOSLEEP = 35, SYS_FSYNC = 74, SYS_FDATASYNC = 75 };

extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern long atol(const char *text);

/* Read at each call: a constructor would run before the environment is there. */
static void delay(void) {
    const char *text = getenv("SLOW_SYNC_MS");
    long ms = text ? atol(text) : 0;
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    /* A signal must not cut it short: the kernel then tells what is left. */
    while ((left.sec || left.nsec) && syscall(SYS_NANOSLEEP, &left, &left) < 0) {
    }
}

int fsync(int file) {
    delay();
    return (int)syscall(SYS_FSYNC, file);
}

int fdatasync(int file) {
    delay();
    return (int)syscall(SYS_FDATASYNC, file);
}
