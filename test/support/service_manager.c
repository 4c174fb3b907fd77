/* A stand-in for systemd, for one service: it passes listeners, keeps a store of descriptors, and passes that to the
 * next life of the service. To be told what to do on standard input, a letter each:
 *
 *     s  start the service     k  kill it     t  send it SIGTERM     c  close its standard input
 *     n  tell the store     m  tell how many it has     h  tell how many messages were heard
 *
 * usage: service_manager STORE_MAX NAME=PORT... -- COMMAND...   A port is listened on at 127.0.0.1, and one that begins
 * with * at the addresses of both families, by one socket. Where the first NAME is empty, no names are passed.
 *
 * It says "ended" when the service has, and "store NAME NAME...", "many N" or "heard N" when asked. At the end of its
 * input it kills the service and ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 8192

struct kept { int fd; dev_t device; ino_t inode; char name[256]; };

static struct kept sockets[16], store[MOST];
static int n_sockets, n_store, n_heard, store_max, notify, ends, service_input = -1;
static pid_t service;
static char **command, notify_name[108];

static void forget(int i)
{
    /* The service may have a copy, so that close alone would not do. */
    epoll_ctl(ends, EPOLL_CTL_DEL, store[i].fd, NULL);
    close(store[i].fd);
    memmove(&store[i], &store[i + 1], (--n_store - i) * sizeof *store);
}

static void keep(int fd, const char *name)
{
    struct stat kept;
    if (n_store >= store_max || fstat(fd, &kept)) { close(fd); return; }
    for (int i = 0; i < n_store; i++)
        if (store[i].device == kept.st_dev && store[i].inode == kept.st_ino) { close(fd); return; }
    store[n_store].fd = fd;
    store[n_store].device = kept.st_dev;
    store[n_store].inode = kept.st_ino;
    snprintf(store[n_store++].name, sizeof store->name, "%s", name);
    /* Ends and errors are always told. What cannot be watched has no end. */
    epoll_ctl(ends, EPOLL_CTL_ADD, fd, &(struct epoll_event) { .data.fd = fd });
}

static void forget_ended(void)
{
    struct epoll_event ended[64];
    int n = epoll_wait(ends, ended, 64, 0);
    for (int e = 0; e < n; e++)
        for (int i = 0; i < n_store; i++)
            if (store[i].fd == ended[e].data.fd) { forget(i); break; }
}

static void hear(void)
{
    char text[4096], control[CMSG_SPACE(sizeof(int) * 16)], name[256] = "stored";
    struct iovec part = { text, sizeof text - 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    ssize_t length = recvmsg(notify, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (length < 0) return;
    n_heard++;
    text[length] = 0;
    int fds[16], n = 0, stores = 0, removes = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), n * sizeof(int));
        }
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (strcmp(line, "FDSTORE=1") == 0) stores = 1;
        else if (strcmp(line, "FDSTOREREMOVE=1") == 0) removes = 1;
        else if (strncmp(line, "FDNAME=", 7) == 0) snprintf(name, sizeof name, "%s", line + 7);
        else if (strcmp(line, "BARRIER=1") != 0) { printf("unexpected %s\n", line); fflush(stdout); }
    }
    for (int i = 0; i < n; i++)
        if (stores) keep(fds[i], name); else close(fds[i]);
    for (int i = n_store - 1; removes && i >= 0; i--)
        if (strcmp(store[i].name, name) == 0) forget(i);
}

static void start(void)
{
    int input[2];
    if (pipe2(input, O_CLOEXEC)) err(1, "pipe2");
    if ((service = fork()) == 0) {
        char pid[16], count[16], *names = calloc(MOST, 256);
        struct kept all[MOST + 16];
        int n = 0;
        for (int i = 0; i < n_sockets; i++) all[n++] = sockets[i];
        /* The newest first, as systemd does. */
        for (int i = n_store - 1; i >= 0; i--) all[n++] = store[i];
        for (int i = 0; i < n; i++) {
            all[i].fd = fcntl(all[i].fd, F_DUPFD_CLOEXEC, 3 + n + 100);
            strcat(strcat(names, i ? ":" : ""), all[i].name);
        }
        dup2(input[0], 0);
        for (int i = 0; i < n; i++) dup2(all[i].fd, 3 + i);
        snprintf(pid, sizeof pid, "%d", getpid());
        snprintf(count, sizeof count, "%d", n);
        if (n > 0) {
            setenv("LISTEN_PID", pid, 1);
            setenv("LISTEN_FDS", count, 1);
            if (*all[0].name) setenv("LISTEN_FDNAMES", names, 1);
            else unsetenv("LISTEN_FDNAMES");
        }
        setenv("NOTIFY_SOCKET", notify_name, 1);
        setenv("SYSTEMD_EXEC_PID", pid, 1);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(command[0], command);
        err(1, "%s", command[0]);
    }
    close(input[0]);
    if (service_input >= 0) close(service_input);
    service_input = input[1];
}

static int told(void)
{
    char letter;
    if (read(0, &letter, 1) != 1) return 0;
    switch (letter) {
    case 's': start(); break;
    case 'k': if (service > 0) kill(service, SIGKILL); break;
    case 't': if (service > 0) kill(service, SIGTERM); break;
    case 'c': close(service_input); service_input = -1; break;
    case 'n':
        printf("store");
        for (int i = 0; i < n_store; i++) printf(" %s", store[i].name);
        printf("\n");
        fflush(stdout);
        break;
    case 'm':
        printf("many %d\n", n_store);
        fflush(stdout);
        break;
    case 'h':
        printf("heard %d\n", n_heard);
        fflush(stdout);
    }
    return 1;
}

int main(int argc, char **argv)
{
    store_max = atoi(argv[1]);
    int i = 2;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
        char *port = strchr(argv[i], '=');
        *port++ = 0;
        int both = *port == '*', number = htons(atoi(port + both)), no = 0, yes = 1;
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = number };
        struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = number };
        int fd = socket(both ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (both) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
        if (bind(fd, both ? (void *)&any : (void *)&at, both ? sizeof any : sizeof at) || listen(fd, 4096))
            err(1, "port %s", port);
        sockets[n_sockets].fd = fd;
        snprintf(sockets[n_sockets++].name, sizeof sockets->name, "%s", argv[i]);
    }
    command = argv + i + 1;
    if (argc <= i + 1) errx(1, "no command");

    struct sockaddr_un name = { .sun_family = AF_UNIX };
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "embedded_epmd/test/%d", getpid());
    snprintf(notify_name, sizeof notify_name, "@%s", name.sun_path + 1);
    notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (bind(notify, (void *)&name, offsetof(struct sockaddr_un, sun_path) + 1 + length)) err(1, "bind");

    ends = epoll_create1(EPOLL_CLOEXEC);
    start();
    for (;;) {
        struct pollfd polled[] = {
            { .fd = 0, .events = POLLIN }, { .fd = notify, .events = POLLIN }, { .fd = ends, .events = POLLIN },
        };
        poll(polled, 3, 5);
        if (polled[2].revents) forget_ended();
        if (polled[1].revents) hear();
        if (service > 0 && waitpid(service, NULL, WNOHANG) == service) {
            service = 0;
            printf("ended\n");
            fflush(stdout);
        }
        if (polled[0].revents && !told()) break;
    }
    if (service > 0) {
        kill(service, SIGKILL);
        waitpid(service, NULL, 0);
    }
    return 0;
}
