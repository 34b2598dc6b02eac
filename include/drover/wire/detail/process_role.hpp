#pragma once

#include <atomic>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include <drover/os/detail/lineage.hpp>
#include <drover/os/detail/spawn_mark.hpp>
#include <drover/os/fd.hpp>
#include <drover/wire/protocol.hpp>

/// The role of this process, which both sides of the process boundary have to know.
namespace drover { inline namespace v1 { namespace detail {

enum class Role {
  unknown,  // not asked for yet
  parent,
  booting,  // a worker that has not reached serve()
  serving   // a worker that has reached serve(); from then on it may have workers of its own
};

/// Set by in_worker() and serve().
inline std::atomic<Role> this_process{Role::unknown};

/// How this process was started, according to its environment.
struct StartRole {
  bool as_worker = false;                        ///< the variable is set, or the process has the marks of a worker
  std::optional<WorkerEnvironment> environment;  ///< its value, if all of it is as it was for the process that wrote it
  std::string fault;                             ///< otherwise what is missing
};

/// A worker's descriptors 3 and 4 are ends of socket pairs that one of its ancestors has created, and 5 is that
/// ancestor's pidfd or lock. No other program has such descriptors. They are still there if a wrapper has cleared the
/// environment (`env -i`, `su -`).
inline bool has_worker_descriptors() noexcept {
  pid_t maker = 0;
  for (const int fd : {3, 4}) {
    int domain = 0, type = 0;
    ucred peer{};
    socklen_t size = sizeof domain;
    if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 || domain != AF_UNIX) return false;
    size = sizeof type;
    if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) return false;
    size = sizeof peer;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) return false;
    if (maker != 0 && maker != peer.pid) return false;
    maker = peer.pid;
  }
  return maker != ::getpid() && identity_of(5) && descends_from(::getpid(), maker);
}

/// True if one of two signs shows a worker that has lost its variable. Each covers what the other lacks: a real-time
/// policy (chrt) clears the timer slack, and sudo closes the descriptors.
inline bool is_marked_as_worker() noexcept { return has_spawn_mark() || has_worker_descriptors(); }

/// A variable that is set but does not fit belongs to a worker that a wrapper has damaged, by closing descriptors, say.
/// Such a process must not take itself for the parent program, which starts workers.
inline StartRole start_role_of_this_process() {
  StartRole start;
  const char* const text = std::getenv(environment_name);
  start.as_worker = text != nullptr || is_marked_as_worker();
  if (!start.as_worker) return start;
  if (text == nullptr) {
    start.fault = "the variable is not set";
    return start;
  }
  std::optional<WorkerEnvironment> environment = WorkerEnvironment::parse(text);
  if (!environment || environment->control.fd < 0 || environment->data.fd < 0) {
    start.fault = "its value is malformed";
    return start;
  }
  const std::pair<const InheritedFd*, const char*> descriptors[] = {{&environment->control, "the control socket"},
                                                                    {&environment->data, "the data socket"},
                                                                    {&environment->parent, "the parent's pidfd"},
                                                                    {&environment->lock, "the parent's lock"},
                                                                    {&environment->forks, "the fork requests"}};
  for (const auto& [inherited, what] : descriptors) {
    if (inherited->fd < 0) continue;
    const std::optional<FdIdentity> found = identity_of(inherited->fd);
    if (found && found->device == inherited->device && found->inode == inherited->inode) continue;
    start.fault =
        "descriptor " + std::to_string(inherited->fd) + ", " + what + (found ? ", is another file" : ", is not open");
    return start;
  }
  start.environment = std::move(environment);
  return start;
}

/// True if this process was started as a worker and has not reached serve(), whether or not it has called in_worker().
/// Such a process must not start workers: a main() that never serves would multiply without end.
inline bool booting_as_worker() {
  const Role role = this_process.load();
  if (role != Role::unknown) return role == Role::booting;
  return std::getenv(environment_name) != nullptr || is_marked_as_worker();
}

/// True if this process was started as a worker.
inline bool started_as_worker() { return booting_as_worker() || this_process.load() == Role::serving; }

}}}  // namespace drover::v1::detail
