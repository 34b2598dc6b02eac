#pragma once

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <iterator>
#include <linux/capability.h>
#include <poll.h>
#include <pty.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <vector>

/// A program as somebody in a shell sees it. Does not use drover.
class Program {
 public:
  struct Setup {
    bool terminal = false;   ///< standard input and error are a terminal of its own
    bool powerless = false;  ///< even root can't read what its mode does not allow
  };
  struct Result {
    int code = -1;  ///< as a shell tells it: 128 + n after signal n
    std::string out, err;
  };
  using Clock = std::chrono::steady_clock;

  explicit Program(std::vector<std::string> argv) : Program(std::move(argv), Setup{}) {}
  Program(std::vector<std::string> argv, Setup setup) {
    int in[2], out[2], err[2], terminal[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0)
      throw std::runtime_error("no pipe");
    if (setup.terminal) {
      if (::openpty(&terminal[0], &terminal[1], nullptr, nullptr, nullptr) != 0)
        throw std::runtime_error("no terminal");
      ::close(in[0]), ::close(in[1]), ::close(err[0]), ::close(err[1]);
      ::fcntl(terminal[0], F_SETFD, FD_CLOEXEC);
      in[1] = ::fcntl(terminal[0], F_DUPFD_CLOEXEC, 0);
      err[0] = terminal[0];
      in[0] = err[1] = terminal[1];
    }
    static int runs = 0;
    mark_ = "DROVER_TEST_RUN=" + std::to_string(::getpid()) + '.' + std::to_string(++runs);

    std::vector<char*> arguments;
    for (std::string& argument : argv) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("no process");
    if (pid_ == 0) {
      ::setsid();
      if (setup.terminal) ::ioctl(in[0], TIOCSCTTY, 0);
      ::dup2(in[0], 0), ::dup2(out[1], 1), ::dup2(err[1], 2);
      if (setup.terminal) ::close(terminal[1]);
      if (setup.powerless) {
        ::prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0);
        ::prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0);
      }
      ::putenv(mark_.data());
      ::execvp(arguments[0], arguments.data());
      ::_exit(99);
    }
    ::close(in[0]), ::close(out[1]);
    if (err[1] != in[0]) ::close(err[1]);
    in_ = in[1], out_ = out[0], err_ = err[0];
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    for (const pid_t pid : processes()) ::kill(pid, SIGKILL);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
    close_input();
    for (const int fd : {out_, err_})
      if (fd >= 0) ::close(fd);
  }

  static Result run(std::vector<std::string> argv) { return Program(std::move(argv)).wait(); }

  pid_t pid() const { return pid_; }

  void type(std::string_view text) {
    if (::write(in_, text.data(), text.size()) < 0) throw std::runtime_error("nobody reads");
  }

  void close_input() {
    if (in_ >= 0) ::close(std::exchange(in_, -1));
  }

  /// Waits until it has written that, to either of its outputs.
  void wait_for(std::string_view text) {
    const auto written = [&] {
      return result_.out.find(text) != std::string::npos || result_.err.find(text) != std::string::npos;
    };
    read_until(written);
    EXPECT_TRUE(written()) << "it wrote:\n" << result_.out << result_.err;
  }

  /// What it has written to its standard output after that, as far as wait_for() has read it.
  std::string out_after(const std::string& text) const {
    const std::size_t at = result_.out.find(text);
    return at == std::string::npos ? "" : result_.out.substr(at + text.size());
  }

  /// Waits for its end, and for the end of what it writes.
  Result wait() {
    if (!read_until([] { return false; })) {
      ADD_FAILURE() << "the program did not end; it wrote:\n" << result_.out << result_.err;
      ::kill(pid_, SIGKILL);
    }
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    result_.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return std::move(result_);
  }

  /// The processes of this run: it, its children and theirs. Those that have ended, zombies too, are not counted.
  std::vector<pid_t> processes() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::ifstream file(entry.path() / "environ");
      const std::string environment(std::istreambuf_iterator<char>(file), {});
      if (environment.find(mark_ + '\0') != std::string::npos) found.push_back(std::stoi(name));
    }
    return found;
  }

  /// Looks again and again until it holds; false if it does not within `limit`.
  static bool eventually(Clock::duration limit, const std::function<bool()>& holds) {
    for (const Clock::time_point until = Clock::now() + limit; Clock::now() < until; ::poll(nullptr, 0, 2))
      if (holds()) return true;
    return holds();
  }

 private:
  /// Reads what it writes until it is enough, or has ended. False if that takes too long.
  bool read_until(const std::function<bool()>& enough) {
    const Clock::time_point until = Clock::now() + std::chrono::seconds(90);
    while (!enough() && (out_ >= 0 || err_ >= 0)) {
      pollfd fds[] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      if (left <= 0 || ::poll(fds, 2, static_cast<int>(left)) == 0) return false;
      if (fds[0].revents != 0) read_some(out_, result_.out);
      if (fds[1].revents != 0) read_some(err_, result_.err);
    }
    return true;
  }

  static void read_some(int& fd, std::string& text) {
    char buffer[4096];
    const ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count > 0)
      text.append(buffer, static_cast<std::size_t>(count));
    else  // a terminal ends with EIO
      ::close(std::exchange(fd, -1));
  }

  Result result_;
  std::string mark_;
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1, err_ = -1;
};
