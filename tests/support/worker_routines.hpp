#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <memory>
#include <signal.h>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#include <asio/awaitable.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include <drover/run.hpp>
#include <drover/worker/routines.hpp>

#include "support/sanitizers.hpp"

/// What the worker of the tests can be called for. Each routine that a test has to wait for says a line on stdout.
namespace support {

// Sanitizers delay the usual ways out.
[[noreturn]] inline void leave(int code) {
  for (;;) ::syscall(SYS_exit_group, code);
}

inline void say(std::string text) {
  text += '\n';
  if (::write(1, text.data(), text.size()) < 0) leave(99);
}

inline void pass(int milliseconds) {
  timespec left{milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (::nanosleep(&left, &left) != 0) continue;
}

[[noreturn]] inline void crash(int signo) {
  ::signal(signo, SIG_DFL);  // sanitizers handle some
  ::raise(signo);
  leave(95);
}

inline void spin() {
#ifdef DROVER_TEST_TSAN
  for (;;) ::usleep(1);  // it runs signal handlers only where the program calls something
#else
  for (volatile bool endless = true; endless;) continue;
#endif
}

/// A process in the worker's group that does not end by itself. "plain"; "holding": keeps stdout open; "setsid": leaves
/// the group; "holding all": leaves the group and keeps all that the worker has open; "stubborn": ignores SIGTERM.
/// Returns once it is what it is to be.
inline int grandchild(const std::string& kind) {
  int ready[2] = {-1, -1};
  if (::pipe2(ready, O_CLOEXEC) != 0) leave(99);
  const pid_t pid = ::fork();
  if (pid != 0) {
    char byte = 0;
    ::close(ready[1]);
    while (::read(ready[0], &byte, 1) < 0 && errno == EINTR) continue;
    ::close(ready[0]);
    return pid;
  }
  ::alarm(60);  // nothing is left even where a test fails
  if (kind == "setsid" || kind == "holding all") ::setsid();
  if (kind == "stubborn") ::signal(SIGTERM, SIG_IGN);
  for (int fd = 0; fd < 64 && kind != "holding all"; ++fd)
    if ((kind != "holding" || fd != 1) && fd != ready[1]) ::close(fd);
  ::close(ready[1]);
  for (;;) ::pause();
}

inline void close_channels() {
  for (const int fd : {3, 4, 5}) ::close(fd);
}

/// Blocked signals, and dispositions that are not the default.
inline std::string signals_report() {
  std::string text = "blocked";
  sigset_t mask;
  ::sigprocmask(SIG_SETMASK, nullptr, &mask);
  for (int signo = 1; signo < NSIG; ++signo)
    if (::sigismember(&mask, signo) == 1) text += " " + std::to_string(signo);
  text += "; not default";
  for (int signo = 1; signo < NSIG; ++signo) {
    struct sigaction action{};
    if (::sigaction(signo, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) text += " " + std::to_string(signo);
  }
  return text;
}

/// Output and exit status of a shell command.
inline std::string in_shell(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), &::pclose);
  std::string text;
  for (int c = std::fgetc(pipe.get()); c != EOF; c = std::fgetc(pipe.get())) text += static_cast<char>(c);
  return text;
}

/// Sleeps. If it is cancelled it says so, and cleans up for a while by awaiting.
inline asio::awaitable<std::string> nap(int milliseconds, int clean_up) {
  say("napping");
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
  std::error_code ec;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  if (!ec) co_return "slept";
  co_await asio::this_coro::reset_cancellation_state();
  timer.expires_after(std::chrono::milliseconds(clean_up));
  co_await timer.async_wait(asio::use_awaitable);
  say("cleaned up");
  throw std::system_error(ec);
}

struct AtExit {
  bool hang = false;
  ~AtExit() {
    if (!hang) return;
    say("hanging at exit");
    spin();
  }
};
inline AtExit at_exit;

inline drover::Routines worker_routines() {
  drover::Routines routines;
  routines.add("pid", [] { return static_cast<int>(::getpid()); })
      .add("parent", [] { return static_cast<int>(::getppid()); })
      .add("echo", [](std::string text) { return text; })
      .add("square", [](int x) { return x * x; })
      .add("nap", nap)
      .add("nap_long", [] { return nap(30000, 0); })
      .add("run_inside",
           [] {
             const auto nine = []() -> asio::awaitable<int> { co_return 9; };
             return drover::run(nine());
           })
      .add("doze",  // as nap, without a word
           [](int milliseconds) -> asio::awaitable<std::string> {
             asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(milliseconds));
             co_await timer.async_wait(asio::use_awaitable);
             co_return "slept";
           })
      .add("work",
           [](int milliseconds) {
             say("working");
             pass(milliseconds);
             return "worked";
           })
      .add("until_stopped",
           [](std::stop_token stop) {
             say("looping");
             while (!stop.stop_requested()) std::this_thread::yield();
             return "stopped";
           })
      .add("spin",
           [] {
             say("spinning");
             spin();
           })
      .add("block_stop_callback",
           [](std::stop_token stop) {
             const std::stop_callback never_ends(stop, [] {
               say("in the callback");
               spin();
             });
             say("spinning");
             spin();
           })
      .add("exit", [](int code) { leave(code); })
      .add("exit_later",  // answered first
           [](int microseconds, int code) {
             std::thread([microseconds, code] {
               std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
               leave(code);
             }).detach();
           })
      .add("crash", [](int signo) { crash(signo); })
      .add("raise", [](int signo) { ::raise(signo); })
      .add("raise_many",
           [](int count, int signo) {
             for (int i = 0; i < count; ++i) ::raise(signo);
           })
      .add("stop_self",
           [] {
             say("stopping");
             ::raise(SIGSTOP);
             say("continued");
             return "continued";
           })
      .add("stop_often",  // SIGCONT does not help
           [] {
             ::signal(SIGTERM, SIG_IGN);
             say("stopping");
             for (;;) ::raise(SIGSTOP);
           })
      .add("ignore", [](int signo) { ::signal(signo, SIG_IGN); })
      .add("grandchild", [](std::string kind) { return grandchild(kind); })
      .add("say_grandchild", [](std::string kind) { say("grandchild " + std::to_string(grandchild(kind))); })
      .add("say", [](std::string text) { say(std::move(text)); })
      .add("close_channels", close_channels)
      .add("flood",
           [](int fd, int bytes) {
             const std::string text(static_cast<std::size_t>(bytes), 'x');
             for (std::size_t done = 0; done < text.size();) {
               const auto written = ::write(fd, text.data() + done, text.size() - done);
               if (written < 0) throw std::system_error(errno, std::system_category());
               done += static_cast<std::size_t>(written);
             }
           })
      .add("blocking_read",
           [](std::string path) {
             const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
             say("reading");
             char byte = 0;
             const auto got = ::read(fd, &byte, 1);
             const int error = got < 0 ? errno : 0;
             ::close(fd);
             return error;
           })
      .add("signals", signals_report)
      .add("in_shell", in_shell)
      .add("system", [](std::string command) { return std::system(command.c_str()); })
      .add("hang_at_exit", [] { at_exit.hang = true; });
  return routines;
}

}  // namespace support
