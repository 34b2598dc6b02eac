#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>
#include <cstddef>

#include <drover/exit_status.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 {

/// How a process is brought to its end: it may end by itself for `patience`, then its whole process group gets SIGTERM
/// (and SIGCONT, in case it is stopped), has `term_grace` to act on that, also what outlasts the process itself, and
/// then gets SIGKILL. The reap is over when nothing of the group is left.
struct ReapPlan {
  Timeout patience = std::chrono::seconds(10);  ///< nullopt: wait however long it takes, and never send anything
  Duration term_grace =
      std::chrono::seconds(5);  ///< counted from the end of patience, not from when SIGTERM got through
};

/// What became of it.
struct ReapReport {
  ExitStatus exit{};
  bool terminated{};   ///< SIGTERM was sent by the reap
  bool killed{};       ///< SIGKILL was sent by the reap
  Duration elapsed{};  ///< from the first reap() to the end; zero if it had ended before
  /// Lines of Stdio::lines, of stdout and stderr together, that the handler never got because it was behind or memory
  /// ran out; and their bytes with the line ends.
  std::size_t lost_lines{}, lost_bytes{};
};

}}  // namespace drover::v1
