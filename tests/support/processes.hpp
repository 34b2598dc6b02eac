#pragma once

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <dirent.h>
#include <exception>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/this_coro.hpp>

#include <drover/os/fd.hpp>
#include <drover/os/process.hpp>

#include "support/sanitizers.hpp"

/// What tests on real processes need.
namespace support {

using namespace std::chrono_literals;
using drover::Clock;
using drover::Command;
using drover::Duration;
using drover::ExitStatus;
using drover::Process;
using drover::Stdio;
using drover::UniqueFd;

inline constexpr auto slack = sanitized ? 4500ms : 1500ms;

/// The test child with these steps, see child.cpp.
inline Command child(std::vector<std::string> steps) {
  Command command;
  command.program = DROVER_HELPER_CHILD;
  command.args = std::move(steps);
  return command;
}

/// Runs a coroutine to its end on a context of its own; what it throws is thrown here. One that hangs fails the test.
template <class T>
T run(asio::io_context& context, asio::awaitable<T> body, Duration bound = 30s) {
  std::exception_ptr failure;
  std::optional<T> result;
  bool done = false;
  asio::co_spawn(context, std::move(body), [&](std::exception_ptr e, T value) {
    failure = e;
    result.emplace(std::move(value));
    done = true;
    context.stop();
  });
  context.restart();
  context.run_for(bound);
  if (!done) throw std::runtime_error("the coroutine did not finish");
  if (failure) std::rethrow_exception(failure);
  return std::move(*result);
}

inline void run(asio::io_context& context, asio::awaitable<void> body, Duration bound = 30s) {
  auto with_value = [](asio::awaitable<void> inner) -> asio::awaitable<int> {
    co_await std::move(inner);
    co_return 0;
  };
  run<int>(context, with_value(std::move(body)), bound);
}

template <class T>
auto run(asio::awaitable<T> body, Duration bound = 30s) {
  asio::io_context context;
  return run(context, std::move(body), bound);
}

/// A pipe that a child has as its stdout (or by another way), read from without a context.
class ReadPipe {
 public:
  ReadPipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    reading_.reset(ends[0]);
    writing_.reset(ends[1]);
  }
  Stdio stdio() const { return Stdio::file("/proc/self/fd/" + std::to_string(writing_.get())); }
  int write_end() const { return writing_.get(); }
  void close_write_end() { writing_.reset(); }
  bool readable() const {
    pollfd ready{reading_.get(), POLLIN, 0};
    return ::poll(&ready, 1, 0) == 1;
  }

  /// One byte; fails after ten seconds. Empty at the end of file.
  std::optional<char> byte() {
    pollfd ready{reading_.get(), POLLIN, 0};
    while (::poll(&ready, 1, 10000) < 0 && errno == EINTR) continue;
    if (ready.revents == 0) throw std::runtime_error("the child said nothing for ten seconds");
    char c = 0;
    return ::read(reading_.get(), &c, 1) == 1 ? std::optional(c) : std::nullopt;
  }
  std::string line() {
    std::string text;
    for (auto c = byte(); c && *c != '\n'; c = byte()) text += *c;
    return text;
  }
  pid_t pid() { return static_cast<pid_t>(std::stol(line())); }
  std::string rest() {
    close_write_end();
    std::string text;
    while (const auto c = byte()) text += *c;
    return text;
  }

 private:
  UniqueFd reading_, writing_;
};

/// Has this process, which need not be our child, ended? A zombie of somebody else's counts.
inline bool gone(pid_t pid) {
  if (::kill(pid, 0) != 0) return errno == ESRCH;
  const UniqueFd file(::open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char bytes[512];
  const ssize_t size = file ? ::read(file.get(), bytes, sizeof bytes) : -1;
  if (size <= 0) return true;  // gone meanwhile
  const std::string text(bytes, static_cast<std::size_t>(size));
  const auto name_end = text.rfind(')');
  return name_end == std::string::npos || text[name_end + 2] == 'Z' || text[name_end + 2] == 'X';
}

/// Waits for that, for what is not reaped by us.
inline bool soon_gone(pid_t pid, Duration bound = slack) {
  const auto until = Clock::now() + bound;
  while (!gone(pid)) {
    if (Clock::now() > until) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

/// Until our child has been stopped by a signal.
inline void await_stopped(pid_t pid) {
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOWAIT);
}

/// What is open, a line each. Without those in /proc: the reaper's thread may be having a look around there.
inline std::vector<std::string> what_is_open(bool in_proc_too = false) {
  std::vector<std::string> open;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), &::closedir);
  while (const dirent* entry = ::readdir(folder.get())) {
    if (entry->d_name[0] == '.' || std::stoi(entry->d_name) == ::dirfd(folder.get())) continue;
    std::error_code ec;
    const std::string file = std::filesystem::read_symlink(std::string("/proc/self/fd/") + entry->d_name, ec).string();
    if (ec || (!in_proc_too && file.starts_with("/proc"))) continue;
    open.push_back(std::string(entry->d_name) + " " + file);
  }
  return open;
}

inline std::size_t open_descriptors() { return what_is_open().size(); }

inline Duration since(Clock::time_point start) { return Clock::now() - start; }

/// After each test there is no child left, and as many descriptors are open as before.
class Processes : public ::testing::Test {
 protected:
  Processes() {
    Command warm_up = child({});  // what is opened once stays open
    auto process = Process::spawn(warm_up);
    support::run(process.wait());  // not drover::run()
    before_ = what_is_open();
  }
  void TearDown() override {
    int status = 0;
    EXPECT_EQ(::waitpid(-1, &status, WNOHANG), -1) << "a child is left";
    auto after = what_is_open(true);
    for (const auto start = Clock::now(); after.size() != before_.size() && since(start) < slack;) {
      ::poll(nullptr, 0, 2);
      after = what_is_open(true);
    }
    EXPECT_EQ(after.size(), before_.size()) << ::testing::PrintToString(before_) << ::testing::PrintToString(after);
  }

 private:
  std::vector<std::string> before_;
};

}  // namespace support
