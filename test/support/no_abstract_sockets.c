/* What a profile of AppArmor or a snap does: denies abstract Unix sockets of the handover. Preloaded; DENY names the call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static int denied(const char *call, const struct sockaddr *address) {
  const char *deny = getenv("DENY");
  const struct sockaddr_un *un = (const struct sockaddr_un *)address;
  return deny && !strcmp(deny, call) && address->sa_family == AF_UNIX && !un->sun_path[0] &&
         !strncmp(un->sun_path + 1, "embedded_epmd", 13);
}

int bind(int socket, const struct sockaddr *address, socklen_t length) {
  if (denied("bind", address)) return errno = EACCES, -1;
  int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
  return next(socket, address, length);
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
  if (denied("connect", address)) return errno = EACCES, -1;
  int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  return next(socket, address, length);
}
