/* What time is it, how much CPU time was used, and how durations are spread. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* CPU seconds that a process has used so far; 0 if there is none. */
double cpu_of(int pid)
{
    char path[64], line[1024] = "";
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    char *rest = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    if (rest)
        sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* CPU seconds that this process has used so far. */
double cpu_own(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* CPU seconds that everything on this machine has used so far. */
double cpu_all(void)
{
    unsigned long user = 0, nice = 0, system = 0, irq = 0, softirq = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (!file)
        return 0;
    if (fscanf(file, "cpu %lu %lu %lu %*u %*u %lu %lu", &user, &nice, &system, &irq, &softirq) != 5)
        user = 0;
    fclose(file);
    return (double)(user + nice + system + irq + softirq) / (double)sysconf(_SC_CLK_TCK);
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    int power = ns < 128 ? 0 : 63 - __builtin_clzll(ns) - 6;
    uint64_t step = power ? (uint64_t)power << 7 | (ns >> (power - 1) & 127) : ns;
    h->counts[step]++;
    h->total++;
    if (ns > h->highest)
        h->highest = ns;
}

/* The lower bound, in ms, of the step that holds the quantile. */
double histogram_ms(const struct histogram *h, double quantile)
{
    uint64_t wanted = (uint64_t)(quantile * (double)h->total), seen = 0;
    for (uint64_t step = 0; step < 64 << 7; step++) {
        seen += h->counts[step];
        if (seen > wanted) {
            uint64_t power = step >> 7, low = step & 127;
            return (double)(power ? (128 | low) << (power - 1) : low) / 1e6;
        }
    }
    return (double)h->highest / 1e6;
}
