// Runs the program named by its further arguments as on a kernel that lacks what the first one names.
#include <string_view>
#include <unistd.h>

#include "support/seccomp.hpp"

int main(int, char** argv) {
  const std::string_view what = argv[1];
  if (what == "clone3") support::refuse({{435 /* clone3 */, ENOSYS}});
  if (what == "thread-id") support::refuse({{SYS_prctl, EINVAL, 0, 40 /* PR_GET_TID_ADDRESS */}});
  ::execv(argv[2], argv + 2);
  std::perror(argv[2]);
  return 125;
}
