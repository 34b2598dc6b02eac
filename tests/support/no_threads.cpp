// Runs the program named by its arguments as on a machine that has no thread left for it.
#include <unistd.h>

#include "support/seccomp.hpp"

int main(int, char** argv) {
  support::refuse({{SYS_clone3, EAGAIN}, {SYS_clone, EAGAIN}});
  ::execv(argv[1], argv + 1);
  std::perror(argv[1]);
  return 125;
}
