// Runs the program named by its arguments as on a kernel that knows no pidfds.
#include <unistd.h>

#include "support/seccomp.hpp"

int main(int, char** argv) {
  support::refuse({{424 /* pidfd_send_signal */, ENOSYS}, {434 /* pidfd_open */, ENOSYS}});
  ::execv(argv[1], argv + 1);
  std::perror(argv[1]);
  return 125;
}
