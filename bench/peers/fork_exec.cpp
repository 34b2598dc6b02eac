// Plain fork and exec, as programs did before posix_spawn.
#include "common.hpp"

namespace {

double spawn() {
  static const std::string program = peers::tiny_program();
  auto [reading, writing] = bench::pipe_pair();
  const auto start = peers::Clock::now();
  const pid_t child = peers::checked(::fork(), "fork");
  if (child == 0) {
    ::dup2(writing.get(), 2);
    ::execl(program.c_str(), program.c_str(), nullptr);
    ::_exit(127);
  }
  writing.reset();
  const bool received = bench::receive_byte(reading.get());
  const double taken = peers::microseconds(peers::Clock::now() - start);
  ::waitpid(child, nullptr, 0);
  if (!received) throw std::runtime_error("the tiny program wrote nothing");
  return taken;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<peers::Figure> figures;
  peers::add_spawn(figures, "fork+exec alone", "raw system calls, a blocking read", spawn);
  return peers::run_main(argc, argv, figures);
}
