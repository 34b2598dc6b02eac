#pragma once

#include <atomic>
#include <cstdlib>
#include <initializer_list>
#include <optional>

#include <drover/os/fd.hpp>
#include <drover/wire/protocol.hpp>

/// What this process is: both sides of the process boundary have to know.
namespace drover::inline v1::detail {

enum class Role {
  unknown,  // nobody has asked yet
  host,
  booting,  // a worker that has not reached serve()
  serving   // a worker that has; from then on it may have workers of its own
};

/// Set by in_worker() and serve().
inline std::atomic<Role> this_process{Role::unknown};

/// The environment names descriptors that are open here and are what they were for the process that wrote it. It is not
/// so in programs that a worker starts before it has removed the variable: the descriptors are close-on-exec there.
inline std::optional<WorkerEnvironment> live_worker_environment() {
  const char* const text = std::getenv(environment_name);
  if (text == nullptr) return std::nullopt;
  std::optional<WorkerEnvironment> environment = WorkerEnvironment::parse(text);
  if (!environment || environment->control.fd < 0 || environment->data.fd < 0) return std::nullopt;
  for (const InheritedFd* inherited :
       {&environment->control, &environment->data, &environment->parent, &environment->lock}) {
    if (inherited->fd < 0) continue;
    const std::optional<FdIdentity> found = identity_of(inherited->fd);
    if (!found || found->device != inherited->device || found->inode != inherited->inode) return std::nullopt;
  }
  return environment;
}

/// This process was started as a worker and has not reached serve(), whether or not it has asked in_worker(). It must
/// not start workers: a main() that never serves would multiply without end.
inline bool booting_as_worker() {
  const Role role = this_process.load();
  return role == Role::unknown ? live_worker_environment().has_value() : role == Role::booting;
}

/// This process was started as a worker.
inline bool started_as_worker() { return booting_as_worker() || this_process.load() == Role::serving; }

}  // namespace drover::inline v1::detail
