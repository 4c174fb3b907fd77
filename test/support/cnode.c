/* A C node: it registers with EPMD, and lives for as long as its standard input is open. */
#include <ei.h>
#include <netinet/in.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
  ei_cnode node;
  int port = 0;
  char byte;
  struct in_addr address = {htonl(INADDR_LOOPBACK)};

  if (argc != 2 || ei_init() || ei_connect_xinit(&node, "localhost", argv[1], argv[1], &address, "test", 1) < 0)
    return 1;
  int listener = ei_listen(&node, &port, 5);
  if (listener < 0 || ei_publish(&node, port) < 0)
    return 2;
  puts("registered");
  fflush(stdout);
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}
