#pragma once

#include <optional>
#include <vector>

#include <drover/os/detail/child_events.hpp>
#include <drover/os/detail/environment.hpp>
#include <drover/os/detail/process_source.hpp>
#include <drover/os/reap.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Settings of a spawn that are not part of the command.
struct SpawnOptions {
  std::vector<int>
      descriptors{};  ///< become 3, 4, 5, ... of the child, in this order; the caller still has to close them
  Variables env{};    ///< set last
  ChildObserver observer{};
  Duration term_grace = ReapPlan{}.term_grace;  ///< for a reap that nobody requested: abandon(), the program's end
  /// A process that exits with this code while it is being reaped was cut off and did not exit by itself.
  std::optional<int> cut_off_code{};
  /// Checks once a second whether the process is suspended. The kernel reports that by SIGCHLD only, and that signal
  /// belongs to the program, see wait(2).
  bool observes_stops = false;
  /// See spawn_mark.hpp.
  bool is_worker = false;
  /// Asked first to start the process. Null: it is spawned.
  ProcessSource* source = nullptr;
  /// The process makes children of this program, see CLONE_PARENT in clone(2). Those that nobody has moved to a group
  /// of their own belong to its group, and are collected with that.
  bool makes_siblings = false;
};

}}}  // namespace drover::v1::detail
