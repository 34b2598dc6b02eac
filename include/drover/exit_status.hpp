#pragma once

#include <drover/detail/platform.hpp>

#include <signal.h>
#include <string.h>
#include <string>

namespace drover { inline namespace v1 {

/// How a process exited. exit(9), exit(137) and death by SIGKILL are three different values.
struct ExitStatus {
  enum class Kind {
    unknown,   ///< other code in the parent collected the status first (an ignored SIGCHLD, a waitpid(-1))
    exited,    ///< the process returned from main() or called exit(); value is the code, 0 to 255
    signaled,  ///< a signal killed the process; value is the signal's number
  };

  Kind kind{};
  int value{};
  bool core_dumped{};

  /// True if the process exited with code 0. An unknown status is not a success.
  bool success() const noexcept { return kind == Kind::exited && value == 0; }

  /// "exited with code 3", "killed by SIGSEGV (core dumped)", "ended with an unknown status".
  std::string to_string() const;

  bool operator==(const ExitStatus&) const = default;
};

namespace detail {

inline std::string signal_name(int signo) {
  if (const char* name = ::sigabbrev_np(signo)) return std::string("SIG") + name;
  return "signal " + std::to_string(signo);
}

/// Converts the result of waitid(2) with WEXITED.
inline ExitStatus to_exit_status(const siginfo_t& info) noexcept {
  if (info.si_code == CLD_EXITED) return {ExitStatus::Kind::exited, info.si_status, false};
  return {ExitStatus::Kind::signaled, info.si_status, info.si_code == CLD_DUMPED};
}

}  // namespace detail

inline std::string ExitStatus::to_string() const {
  switch (kind) {
    case Kind::exited: return "exited with code " + std::to_string(value);
    case Kind::signaled: return "killed by " + detail::signal_name(value) + (core_dumped ? " (core dumped)" : "");
    case Kind::unknown: break;
  }
  return "ended with an unknown status";
}

}}  // namespace drover::v1
