/* A machine whose clock of the day is set, and synchronised or not, and which boots, while processes
 * run.
 *
 * Loaded with LD_PRELOAD; SET_CLOCK names a file with the seconds by which the clock is ahead, 1 if
 * something synchronises it, and the seconds that had passed when the machine booted last: "0 0 0"
 * for none of it. CLOCK_MONOTONIC is left alone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

struct machine {
    double ahead_s;
    int synchronised;
    double booted_s;
};

static struct machine machine(void) {
    struct machine found = {0.0, 0, 0.0};
    char text[96] = "";
    const char *path = getenv("SET_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        ssize_t size = read(file, text, sizeof text - 1);
        text[size > 0 ? size : 0] = 0;
        close(file);
    }
    sscanf(text, "%lf %d %lf", &found.ahead_s, &found.synchronised, &found.booted_s);
    return found;
}

static void add(struct timespec *now, double seconds) {
    double sum_s = now->tv_sec + 1e-9 * now->tv_nsec + seconds;
    now->tv_sec = (time_t)sum_s;
    now->tv_nsec = (long)(1e9 * (sum_s - (double)now->tv_sec));
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, which, now);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        add(now, machine().ahead_s);
    if (!failed && which == CLOCK_BOOTTIME)
        add(now, -machine().booted_s);
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (kept) *kept = found.tv_sec;
    return found.tv_sec;
}

int adjtimex(struct timex *asked) {
    (void)asked;
    return machine().synchronised ? TIME_OK : TIME_ERROR;
}
