/*
 * speaks enough of the guest agent protocol for libvirt, and misbehaves on request:
 *   freeze-delay=S   wait before freezing          freeze=ok|hang|error
 *   (whatever is asked for: /var/run/freeze-asked is there once a freeze has been asked for)
 *   freeze-when=FILE freeze once FILE is there, deaf to what was asked meanwhile; then FILE is gone
 *   thaw-delay=S     wait before thawing           thaw=ok|hang|error|silent (thaws, never answers)
 *   freeze-real=0|1  really freeze (default 1)
 */
#define _GNU_SOURCE
#include "labtool.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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

/* Asked meanwhile: nobody waits for the answers any more, and a thaw among them must not undo the freeze. */
static void forget_asked(int port)
{
    char lost[LINE];
    struct pollfd wait = {.fd = port, .events = POLLIN};
    while (poll(&wait, 1, 0) > 0 && read(port, lost, sizeof lost) > 0)
        ;
}

static void wait_for_file(const char *path)
{
    struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    while (access(path, F_OK))
        nanosleep(&pause, NULL);
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
        close(open("/var/run/freeze-asked", O_WRONLY | O_CREAT, 0644));
        sleep((unsigned)atoi(option(argc, argv, "freeze-delay", "0")));
        const char *awaited = option(argc, argv, "freeze-when", "");
        if (*awaited) {
            wait_for_file(awaited);
            forget_asked(port);
        }
        if (!strcmp(how, "hang"))
            hang();
        if (!strcmp(how, "error")) {
            reply(port, error);
            return;
        }
        count = real ? freeze_mounts(FIFREEZE) : 1;
        if (*awaited)
            unlink(awaited);
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

void agent(const char *path, int argc, char **argv)
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
