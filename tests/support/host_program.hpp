#pragma once

#include <chrono>
#include <cstdio>
#include <exception>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <signal.h>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/os/process.hpp>

/// What programs that are hosts of processes need. What they say goes to descriptor 1; they end with code 0 if all was
/// as it should be.
namespace host {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Command;
using drover::Process;
using drover::Stdio;

inline const char* child_program = "";

inline Command child(std::vector<std::string> steps) {
  Command command;
  command.program = child_program;
  command.args = std::move(steps);
  return command;
}

inline void say(const std::string& text) {
  if (::write(1, text.data(), text.size()) != static_cast<ssize_t>(text.size())) ::_exit(97);
}

/// The children of a host that fails die with it: they hold its stderr open, and whoever reads it would never see its
/// end.
inline void expect(bool what, const char* text) {
  if (what) return;
  std::fprintf(stderr, "host: not so: %s\n", text);
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream children(thread.path() / "children");
    for (pid_t pid = 0; children >> pid;) ::kill(pid, SIGKILL);
  }
  ::_exit(1);
}

template <class T>
T run(asio::awaitable<T> body) {
  asio::io_context context;
  std::exception_ptr failure;
  T result{};
  asio::co_spawn(context, std::move(body), [&](std::exception_ptr e, T value) { failure = e, result = value; });
  context.run();
  if (failure) std::rethrow_exception(failure);
  return result;
}

/// Returns when the child has said that it is ready.
inline Process started(std::vector<std::string> steps) {
  int ends[2];
  expect(::pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  Command command = child(std::move(steps));
  command.out = Stdio::file("/proc/self/fd/" + std::to_string(ends[1]));
  auto process = Process::spawn(command);
  ::close(ends[1]);
  char byte;
  expect(::read(ends[0], &byte, 1) == 1, "the child is ready");
  ::close(ends[0]);
  return process;
}

}  // namespace host
