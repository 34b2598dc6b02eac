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

/// Leaves no process and no file behind, however a benchmark ends. The measured libraries do not promise that, so three
/// processes do. Two of them only wait during the measurement:
///
///     front   the process that the user started: forwards signals, waits for the guard
///     guard   kills all processes below it and removes the folder, when the work exits, a signal arrives or the front
///             dies
///     work    does the measured work, and starts processes
namespace peers {

using bench::checked;

/// Sends this process a signal when its parent dies, see PR_SET_PDEATHSIG in prctl(2).
inline void end_with_parent(pid_t parent, int signo = SIGKILL) {
  checked(::prctl(PR_SET_PDEATHSIG, signo), "prctl");
  if (::getppid() != parent) ::_exit(1);  // the parent died before the call
}

/// Waits for SIGCHLD and the signals that end a run. They are blocked as long as this object exists.
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

  /// Returns 0 and the wait status once the child has exited, or the signal that arrived before.
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

/// Runs body() in a forked copy of this process, whose exit code is the result. Returns -1 on failure, as fork(2).
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
  ::_exit(code);  // without destructors: a library's threads may still run
}

/// Kills and reaps all descendants. Those whose parents have exited become children of this process, a subreaper.
inline void kill_all_children() {
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
  const pid_t child = forked([&] {
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    end_with_parent(parent);
    return work(folder);
  });
  int status = 0, signo = 0;
  if (child > 0) signo = Signals().wait(child, status);
  kill_all_children();
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return child > 0 && signo == 0 ? exit_code(status) : 1;
}

/// Runs work(folder) below a guard, with a private temporary folder. Returns its result, or 1 if it crashed. A signal
/// that ends the run also ends this process.
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
