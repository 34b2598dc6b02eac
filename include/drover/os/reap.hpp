#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>
#include <cstddef>
#include <string>

#include <drover/detail/report_text.hpp>
#include <drover/exit_status.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// How a process is ended. It may exit by itself for `patience`. Then its whole process group gets SIGTERM (and
/// SIGCONT, in case it is suspended) and has `term_grace` to act on that, including processes that outlast the child
/// itself. Then the group gets SIGKILL. The reap is over when nothing of the group is left.
struct ReapPlan {
  Timeout patience = std::chrono::seconds(10);  ///< nullopt: wait without a bound and never send a signal
  Duration term_grace =
      std::chrono::seconds(5);  ///< counted from the end of patience, not from the delivery of SIGTERM
};

/// The result of a reap.
struct ReapReport {
  ExitStatus exit{};
  bool terminated{};   ///< the reap sent SIGTERM
  bool killed{};       ///< the reap sent SIGKILL
  Duration elapsed{};  ///< from the first reap() until nothing of the group was left; zero if that was so before
  /// Lines of Stdio::lines, of stdout and stderr together, that the handler never received because it was behind or
  /// memory ran out; and their bytes with the line ends.
  std::size_t lost_lines{}, lost_bytes{};

  /// One line for a log: "killed by SIGKILL after 2 s; SIGTERM and SIGKILL sent".
  std::string to_string() const {
    return exit.to_string() + " after " + detail::duration_text(elapsed) +
           detail::reap_text(terminated, killed, lost_lines, lost_bytes);
  }
};

}}  // namespace drover::v1
