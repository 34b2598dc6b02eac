// Plain fork and exec, as it was done before posix_spawn.
#include <fcntl.h>

#include "common.hpp"

namespace {

double spawn() {
  static const std::string program = peers::tiny_program();
  int ends[2];
  peers::checked(::pipe2(ends, O_CLOEXEC), "pipe2");
  const auto start = peers::Clock::now();
  const pid_t child = peers::checked(::fork(), "fork");
  if (child == 0) {
    ::dup2(ends[1], 2);
    ::execl(program.c_str(), program.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  char byte = 0;
  const auto got = ::read(ends[0], &byte, 1);
  const double taken = peers::microseconds(peers::Clock::now() - start);
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  if (got != 1) throw std::runtime_error("The tiny program wrote nothing.");
  return taken;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<peers::Figure> figures;
  peers::add_spawn(figures, "fork+exec", "raw system calls, a blocking read", spawn);
  return peers::run_main(argc, argv, figures);
}
