/*
 * The guest's hands, one program with several names of work:
 *
 *   labtool control TTY                    run commands that arrive on a serial line
 *   labtool agent PORT [KEY=VALUE ...]     a guest agent with faults
 *   labtool lockstep STEPFILE DEV:OFF ...  write step numbers to several disks in order, for ever
 *   labtool pattern DEV OFF LEN SEED       fill with a pattern that names seed and offset
 *   labtool writes DEV OFF LEN USEC       write 4 KiB at a time, for ever, and print how long each took
 *   labtool zeroout DEV OFF LEN            BLKZEROOUT: the device's own "write zeroes"
 *   labtool discard DEV OFF LEN            BLKDISCARD
 *   labtool frozen MOUNT                   print frozen or thawed, asked of the kernel
 */
#define _GNU_SOURCE
#include "labtool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MAX_DISKS = 8 };
/* Keep in step with lockstep.py: slots of one ring, and the distance between them in bytes. */
enum { SLOTS = 64, STRIDE = 65536 };

void die(const char *what)
{
    fprintf(stderr, "labtool: %s: %s\n", what, strerror(errno));
    exit(1);
}

void write_all(int fd, const void *data, size_t size)
{
    for (const char *at = data; size;) {
        ssize_t done = write(fd, at, size);
        if (done < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (done <= 0)
            die("write");
        at += done;
        size -= (size_t)done;
    }
}

static void *aligned(size_t size)
{
    void *memory = NULL;
    if (posix_memalign(&memory, BLOCK, size))
        die("memory");
    return memory;
}

/* --- freezing --- */

int freeze_mounts(unsigned long request)
{
    int count = 0;
    char device[256], mount[256], type[64], rest[512];
    FILE *mounts = fopen("/proc/mounts", "r");
    if (!mounts)
        die("/proc/mounts");
    while (fscanf(mounts, "%255s %255s %63s %511[^\n]", device, mount, type, rest) == 4) {
        if (strcmp(type, "ext4"))
            continue;
        int fd = open(mount, O_RDONLY);
        if (fd >= 0 && ioctl(fd, request, 0) == 0)
            count++;
        if (fd >= 0)
            close(fd);
    }
    fclose(mounts);
    return count;
}

/* Freezing what is frozen answers EBUSY; a file system that was not frozen is let go at once. */
static int frozen(const char *mount)
{
    int fd = open(mount, O_RDONLY);
    if (fd < 0)
        die(mount);
    if (ioctl(fd, FIFREEZE, 0) == 0) {
        if (ioctl(fd, FITHAW, 0))
            die("thaw");
        puts("thawed");
    } else if (errno == EBUSY) {
        puts("frozen");
    } else {
        die("freeze");
    }
    return 0;
}

/* --- lockstep: step N goes to every disk in the order given, each write on the disk before the next
 *     begins. At any instant the first disk is at the same step as the last, or one ahead. --- */

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static uint64_t last_step(int fd, off_t base, uint64_t *block)
{
    uint64_t last = 0;
    for (int slot = 0; slot < SLOTS; slot++) {
        if (pread(fd, block, BLOCK, base + (off_t)slot * STRIDE) != BLOCK)
            die("read ring");
        if (block[0] > last)
            last = block[0];
    }
    return last;
}

static int lockstep(const char *stepfile, int count, char **disks)
{
    int fds[MAX_DISKS], progress;
    off_t bases[MAX_DISKS];
    uint64_t *block = aligned(BLOCK), step = 0;
    if (count > MAX_DISKS)
        count = MAX_DISKS;
    for (int i = 0; i < count; i++) {
        char *colon = strchr(disks[i], ':');
        bases[i] = colon ? (off_t)strtoull(colon + 1, NULL, 10) : 0;
        if (colon)
            *colon = 0;
        fds[i] = open(disks[i], O_RDWR | O_DIRECT | O_SYNC);
        if (fds[i] < 0)
            die(disks[i]);
        uint64_t last = last_step(fds[i], bases[i], block);
        if (last > step)
            step = last;
    }
    progress = open(stepfile, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    signal(SIGTERM, stop);
    while (!stopped) {
        step++;
        for (int i = 0; i < BLOCK / 8; i++)
            block[i] = step;
        for (int i = 0; i < count; i++)
            if (pwrite(fds[i], block, BLOCK, bases[i] + (off_t)(step % SLOTS) * STRIDE) != BLOCK)
                die("write step");
        char text[32];
        int size = sprintf(text, "%llu\n", (unsigned long long)step);
        if (pwrite(progress, text, (size_t)size, 0) != size)
            die(stepfile);
    }
    return 0;
}

/* --- filling --- */

static int pattern(const char *device, uint64_t offset, uint64_t length, uint64_t seed)
{
    enum { MANY = 256 };
    uint64_t *buffer = aligned(BLOCK * MANY);
    int fd = open(device, O_RDWR | O_DIRECT);
    if (fd < 0)
        die(device);
    for (uint64_t at = offset; at < offset + length;) {
        uint64_t *word = buffer, size = 0;
        for (; size < BLOCK * MANY && at + size < offset + length; size += BLOCK)
            for (int i = 0; i < BLOCK / 16; i++) {
                *word++ = seed;
                *word++ = at + size;
            }
        if (pwrite(fd, buffer, size, (off_t)at) != (ssize_t)size)
            die("pattern");
        at += size;
    }
    if (fsync(fd))
        die("sync");
    return 0;
}

/* --- what a program that waits for its disk feels: microseconds of each write until it is safe --- */

static uint64_t microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int writes(const char *device, uint64_t offset, uint64_t length, uint64_t pause)
{
    char *buffer = aligned(BLOCK);
    uint32_t place = 1;
    int fd = open(device, O_RDWR | O_DIRECT | O_DSYNC);
    if (fd < 0)
        die(device);
    memset(buffer, 'w', BLOCK);
    signal(SIGTERM, stop);
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (!stopped) {
        place = place * 1664525 + 1013904223;
        uint64_t at = offset + (uint64_t)(place >> 8) % (length / BLOCK) * BLOCK, began = microseconds();
        if (pwrite(fd, buffer, BLOCK, (off_t)at) != BLOCK)
            die("write");
        printf("%llu\n", (unsigned long long)(microseconds() - began));
        usleep((useconds_t)pause);
    }
    return 0;
}

static int range_ioctl(const char *device, unsigned long request, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = {offset, length};
    int fd = open(device, O_RDWR);
    if (fd < 0)
        die(device);
    if (ioctl(fd, request, range) || fsync(fd))
        die(device);
    return 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    uint64_t numbers[3] = {0};
    for (int i = 3; i < argc && i < 6; i++)
        numbers[i - 3] = strtoull(argv[i], NULL, 10);
    if (!strcmp(verb, "control"))
        control(argv[2]);
    if (!strcmp(verb, "frozen"))
        return frozen(argv[2]);
    if (!strcmp(verb, "agent"))
        agent(argv[2], argc - 3, argv + 3);
    if (!strcmp(verb, "lockstep"))
        return lockstep(argv[2], argc - 3, argv + 3);
    if (!strcmp(verb, "pattern") && argc == 6)
        return pattern(argv[2], numbers[0], numbers[1], numbers[2]);
    if (!strcmp(verb, "writes") && argc == 6)
        return writes(argv[2], numbers[0], numbers[1], numbers[2]);
    if (!strcmp(verb, "zeroout") && argc == 5)
        return range_ioctl(argv[2], BLKZEROOUT, numbers[0], numbers[1]);
    if (!strcmp(verb, "discard") && argc == 5)
        return range_ioctl(argv[2], BLKDISCARD, numbers[0], numbers[1]);
    fprintf(stderr, "labtool: see the top of labtool.c\n");
    return 2;
}
