#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <signal.h>
#include <string>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>

#include "../support/system_call.hpp"

/// Whatever happens to a benchmark, no process and no file of it stays behind. The libraries measured make no such
/// promise, so it is kept around them, by processes that only wait while they are measured:
///
///     front   the program that was started: passes signals on, waits for the guard
///     guard   if the work ends or a signal comes or the front is gone: kills all that is below, removes the folder
///     work    does the work, and starts processes
namespace peers {

using bench::checked;

/// A process that gets a signal when its parent ends: for those that would not notice otherwise.
inline void end_with_parent(pid_t parent, int signo = SIGKILL) {
  checked(::prctl(PR_SET_PDEATHSIG, signo), "prctl");
  if (::getppid() != parent) ::_exit(1);  // it was too late for that
}

/// The signals that end a run, and that of a child's end. Blocked while this lives, so that they can be waited for.
class Signals {
 public:
  Signals() {
    sigemptyset(&watched_);
    for (const int signo : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&watched_, signo);
    ::sigprocmask(SIG_BLOCK, &watched_, &before_);
  }
  ~Signals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  /// Until the child has ended, which is answered by 0 and its wait status, or another signal has come.
  int wait(pid_t child, int& status) const {
    for (;;) {
      if (::waitpid(child, &status, WNOHANG) == child) return 0;
      const int signo = ::sigwaitinfo(&watched_, nullptr);
      if (signo > 0 && signo != SIGCHLD) return signo;
    }
  }

 private:
  sigset_t watched_, before_;
};

inline int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 1; }

/// Runs body() in a forked copy of this process, which ends with its result. -1 here is an error, as in fork(2).
template <class Body>
pid_t forked(Body body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  int code = 1;
  try {
    code = body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  std::fflush(nullptr);
  ::_exit(code);  // a library's threads may still run, and the guard tidies up
}

/// Kills and reaps all children, and theirs, which become children of a subreaper when their parents have gone.
inline void end_all_children() {
  const std::string list = "/proc/self/task/" + std::to_string(::gettid()) + "/children";
  for (;;) {
    std::ifstream children(list);
    for (pid_t child = 0; children >> child;) ::kill(child, SIGKILL);
    if (::waitpid(-1, nullptr, 0) == -1 && errno == ECHILD) return;
  }
}

using Work = std::function<int(const std::filesystem::path& folder)>;

inline int guard(const Work& work) {
  checked(::prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
  std::string folder = (std::filesystem::temp_directory_path() / "drover-peer-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) throw std::system_error(errno, std::system_category(), "mkdtemp");
  const pid_t parent = ::getpid();
  const pid_t worker = forked([&] {
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    end_with_parent(parent);
    return work(folder);
  });
  int status = 0, signo = 0;
  if (worker > 0) signo = Signals().wait(worker, status);
  end_all_children();
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return worker > 0 && signo == 0 ? exit_code(status) : 1;
}

/// Runs work(folder), which gets a private temporary folder, as told above; its result, or 1 if it crashed. A signal
/// that ends the run ends this process too.
inline int guarded(const Work& work) {
  int status = 0, ending = 0;
  {
    const Signals signals;
    const pid_t parent = ::getpid();
    const pid_t guarding = checked(forked([&] {
                                     end_with_parent(parent, SIGTERM);
                                     return guard(work);
                                   }),
                                   "fork");
    while (const int signo = signals.wait(guarding, status)) {
      ending = signo;
      ::kill(guarding, signo);
    }
    if (ending != 0) ::signal(ending, SIG_DFL);
  }
  if (ending != 0) ::raise(ending);
  return exit_code(status);
}

}  // namespace peers
