/*
 * The guest's hands, one program with several names of work:
 *
 *   labtool control TTY                    run commands that arrive on a serial line
 *   labtool agent PORT [KEY=VALUE ...]     a guest agent with faults
 *   labtool lockstep STEPFILE DEV:OFF ...  write step numbers to several disks in order, for ever
 *   labtool pattern DEV OFF LEN SEED       fill with a pattern that names seed and offset
 *   labtool zeroout DEV OFF LEN            BLKZEROOUT: the device's own "write zeroes"
 *   labtool discard DEV OFF LEN            BLKDISCARD
 *   labtool frozen MOUNT                   print frozen or thawed, asked of the kernel
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, LINE = 65536, MAX_DISKS = 8 };
/* Keep in step with lockstep.py: slots of one ring, and the distance between them in bytes. */
enum { SLOTS = 64, STRIDE = 65536 };

static void die(const char *what)
{
    fprintf(stderr, "labtool: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void write_all(int fd, const void *data, size_t size)
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

/* --- control: "ID COMMAND" lines in, "ID STATUS HEX-OUTPUT" lines out; every command in a process of
 *     its own, so that one that hangs does not close the line. --- */

static void run_one(int tty, char *id, const char *command)
{
    char name[] = "/tmp/out.XXXXXX";
    int out = mkstemp(name);
    if (out < 0)
        die("output file");
    unlink(name);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY);
        dup2(null, 0);
        dup2(out, 1);
        dup2(out, 2);
        close(tty);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    off_t size = lseek(out, 0, SEEK_END);
    lseek(out, 0, SEEK_SET);
    char *reply = malloc((size_t)size * 2 + 64);
    unsigned char *data = malloc((size_t)size + 1);
    if (!reply || !data || read(out, data, (size_t)size) != size)
        die("output");
    int length = sprintf(reply, "%s %d ", id, status);
    for (off_t i = 0; i < size; i++)
        length += sprintf(reply + length, "%02x", data[i]);
    reply[length++] = '\n';
    int lock = open("/tmp/control.lock", O_CREAT | O_RDWR, 0600);
    flock(lock, LOCK_EX);
    write_all(tty, reply, (size_t)length);
    exit(0);
}

static void control(const char *path)
{
    signal(SIGCHLD, SIG_IGN);
    int tty = open(path, O_RDWR | O_NOCTTY);
    if (tty < 0)
        die(path);
    static char line[LINE];
    size_t used = 0;
    for (;;) {
        char byte;
        ssize_t got = read(tty, &byte, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            die("control line");
        if (byte != '\n') {
            if (used < LINE - 1)
                line[used++] = byte;
            continue;
        }
        line[used] = 0;
        used = 0;
        char *command = strchr(line, ' ');
        if (!command)
            continue;
        *command++ = 0;
        if (fork() == 0) {
            signal(SIGCHLD, SIG_DFL);
            run_one(tty, line, command);
        }
    }
}

/* --- freezing --- */

static int freeze_mounts(unsigned long request)
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

/* --- agent: speaks enough of the guest agent protocol for libvirt, and misbehaves on request:
 *     freeze-delay=S   wait before freezing          freeze=ok|hang|error
 *     thaw-delay=S     wait before thawing           thaw=ok|hang|error|silent (thaws, never answers)
 *     freeze-real=0|1  really freeze (default 1) --- */

static const char *option(int argc, char **argv, const char *key, const char *otherwise)
{
    size_t size = strlen(key);
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], key, size) && argv[i][size] == '=')
            return argv[i] + size + 1;
    return otherwise;
}

static void hang(void)
{
    for (;;)
        pause();
}

static void reply(int port, const char *json)
{
    write_all(port, json, strlen(json));
}

static void answer(int port, const char *line, int argc, char **argv)
{
    static int is_frozen, count;
    char text[256];
    const char *error = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"refused by the lab's agent\"}}\n";
    int real = atoi(option(argc, argv, "freeze-real", "1"));
    if (strstr(line, "\"guest-sync")) {
        const char *id = strstr(line, "\"id\"");
        id = id ? strchr(id, ':') : NULL;
        snprintf(text, sizeof text, "{\"return\":%lld}\n", id ? atoll(id + 1) : 0);
        if (strstr(line, "delimited"))
            write_all(port, "\xff", 1);
        reply(port, text);
    } else if (strstr(line, "\"guest-ping\"")) {
        reply(port, "{\"return\":{}}\n");
    } else if (strstr(line, "\"guest-fsfreeze-status\"")) {
        reply(port, is_frozen ? "{\"return\":\"frozen\"}\n" : "{\"return\":\"thawed\"}\n");
    } else if (strstr(line, "\"guest-fsfreeze-freeze")) {
        const char *how = option(argc, argv, "freeze", "ok");
        sleep((unsigned)atoi(option(argc, argv, "freeze-delay", "0")));
        if (!strcmp(how, "hang"))
            hang();
        if (!strcmp(how, "error")) {
            reply(port, error);
            return;
        }
        count = real ? freeze_mounts(FIFREEZE) : 1;
        is_frozen = 1;
        snprintf(text, sizeof text, "{\"return\":%d}\n", count);
        reply(port, text);
    } else if (strstr(line, "\"guest-fsfreeze-thaw\"")) {
        const char *how = option(argc, argv, "thaw", "ok");
        sleep((unsigned)atoi(option(argc, argv, "thaw-delay", "0")));
        if (!strcmp(how, "hang"))
            hang();
        if (!strcmp(how, "error")) {
            reply(port, error);
            return;
        }
        if (real)
            freeze_mounts(FITHAW);
        snprintf(text, sizeof text, "{\"return\":%d}\n", is_frozen ? count : 0);
        is_frozen = 0;
        if (!strcmp(how, "silent"))
            hang();
        reply(port, text);
    } else {
        reply(port, "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"not known to the lab's agent\"}}\n");
    }
}

static void agent(const char *path, int argc, char **argv)
{
    int port = open(path, O_RDWR);
    if (port < 0)
        die(path);
    static char line[LINE];
    size_t used = 0;
    for (;;) {
        struct pollfd wait = {.fd = port, .events = POLLIN};
        char byte;
        /* The port reads as ended while nobody is connected on the host's side. */
        if (poll(&wait, 1, 200) <= 0 || read(port, &byte, 1) != 1) {
            struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
            nanosleep(&pause, NULL);
            continue;
        }
        if ((unsigned char)byte == 0xff)
            used = 0;
        else if (byte != '\n' && used < LINE - 1)
            line[used++] = byte;
        else {
            line[used] = 0;
            used = 0;
            if (line[0])
                answer(port, line, argc, argv);
        }
    }
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
    if (!strcmp(verb, "zeroout") && argc == 5)
        return range_ioctl(argv[2], BLKZEROOUT, numbers[0], numbers[1]);
    if (!strcmp(verb, "discard") && argc == 5)
        return range_ioctl(argv[2], BLKDISCARD, numbers[0], numbers[1]);
    fprintf(stderr, "labtool: see the top of labtool.c\n");
    return 2;
}
