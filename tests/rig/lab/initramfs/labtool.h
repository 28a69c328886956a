/* What the parts of labtool share; labtool.c says what each does. */
#ifndef LABTOOL_H
#define LABTOOL_H
#include <stddef.h>

enum { LINE = 65536 };

/* Print what failed and why, and end. */
void die(const char *what);
void write_all(int fd, const void *data, size_t size);
/* FIFREEZE or FITHAW on every mounted ext4; how many that worked on. */
int freeze_mounts(unsigned long request);

void control(const char *path);
void agent(const char *path, int argc, char **argv);
#endif
