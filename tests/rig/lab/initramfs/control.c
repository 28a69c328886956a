/*
 * "ID COMMAND" lines in, "ID STATUS HEX-OUTPUT" lines out; every command in a process of
 * its own, so that one that hangs does not close the line.
 */
#define _GNU_SOURCE
#include "labtool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child prints until it ends. Its own children may go on and keep the pipe open: not awaited. */
static size_t collect(int from, pid_t child, unsigned char **output)
{
    size_t size = 0, room = 0;
    struct pollfd wait[2] = {{.fd = from, .events = POLLIN}, {.events = POLLIN}};
    wait[1].fd = (int)syscall(SYS_pidfd_open, child, 0);
    if (wait[1].fd < 0)
        die("pidfd");
    while (poll(wait, 2, -1) > 0 || errno == EINTR) {
        if (!(wait[0].revents & (POLLIN | POLLHUP)))
            break;
        if (size == room && !(*output = realloc(*output, room += LINE)))
            die("output");
        ssize_t got = read(from, *output + size, room - size);
        if (got <= 0)
            break;
        size += (size_t)got;
    }
    return size;
}

static void run_one(int tty, const char *id, const char *command)
{
    int ends[2];
    if (pipe(ends))
        die("pipe");
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        close(tty);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    unsigned char *output = NULL;
    size_t size = collect(ends[0], child, &output);
    int status = 0;
    waitpid(child, &status, 0);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    char *answer = malloc(size * 2 + 64);
    if (!answer)
        die("answer");
    int length = sprintf(answer, "%s %d ", id, status);
    for (size_t i = 0; i < size; i++)
        length += sprintf(answer + length, "%02x", output[i]);
    answer[length++] = '\n';
    int lock = open("/tmp/control.lock", O_CREAT | O_RDWR, 0600);
    flock(lock, LOCK_EX);
    write_all(tty, answer, (size_t)length);
    exit(0);
}

void control(const char *path)
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
