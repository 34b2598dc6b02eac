#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <memory>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <string>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/send_signal.hpp>

/// The rest of a process group after its leader has been reaped.
namespace drover { inline namespace v1 { namespace detail {

/// True if orphans of our descendants become our children.
inline bool adopts_orphans() noexcept {
  int on = 0;
  return ::getpid() == 1 || (::prctl(PR_GET_CHILD_SUBREAPER, &on) == 0 && on != 0);
}

/// Collects the zombies of the group that have become our children.
inline void collect_group(pid_t group) noexcept {
  if (!names_a_child(group)) return;  // 0 means this program's own group
  siginfo_t info{};
  do {
    info.si_pid = 0;
  } while (::waitid(P_PGID, static_cast<id_t>(group), &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0);
}

/// False once the group has no member, not even a zombie.
inline bool group_exists(pid_t group) noexcept {
  const int error = signal_group(group, 0);
  return error == 0 || error == EPERM;
}

/// The result of a search for a member of a group.
struct MemberSearch {
  std::optional<pid_t> found{};  ///< a member that is not a zombie
  bool complete = true;          ///< false: for want of descriptors or memory there may be one that was not seen
};

/// True for an errno that says nothing about the file itself.
inline bool is_shortage(int error) noexcept { return error == EMFILE || error == ENFILE || error == ENOMEM; }

/// Searches by reading all of /proc. Without /proc nothing is found.
inline MemberSearch living_member(pid_t group) noexcept {
  MemberSearch search;
  const std::unique_ptr<DIR, int (*)(DIR*)> processes(::opendir("/proc"), &::closedir);
  if (!processes) return {.complete = !is_shortage(errno)};
  while (const dirent* entry = ::readdir(processes.get())) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "re"), &std::fclose);
    char text[512];
    if (!file && is_shortage(errno)) search.complete = false;
    if (!file || std::fgets(text, sizeof text, file.get()) == nullptr) continue;
    const char* after_name = std::strrchr(text, ')');  // the name may contain anything, see proc(5)
    char state = 0;
    int parent = 0;
    int its_group = 0;
    if (after_name == nullptr || std::sscanf(after_name + 1, " %c %d %d", &state, &parent, &its_group) != 3) continue;
    if (its_group == group && state != 'Z' && state != 'X') return {.found = std::atoi(entry->d_name)};
  }
  return search;
}

/// False only if the search was complete.
inline bool group_may_live(pid_t group) noexcept {
  const MemberSearch search = living_member(group);
  return search.found || !search.complete;
}

/// A group whose leader has been reaped. Its id is ours only as long as a member lives, so a pidfd holds one member. As
/// long as that member lives the group may be signalled, and its exit is the event to wait for.
class LeaderlessGroup {
 public:
  /// `collects`: members may be children of this program.
  LeaderlessGroup(pid_t group, bool collects) noexcept : group_(group), collects_(collects) {}

  /// Holds a living member. False if there is none: the group is over. True without a member if there may be one: then
  /// the group can only be looked at again.
  bool hold_member() noexcept {
    if (lives()) return true;
    member_.reset();
    while (group_exists(group_)) {
      if (collects_) collect_group(group_);
      const auto [pid, complete] = living_member(group_);
      if (!pid && !complete) return true;
      if (!pid) {
        if (collects_) collect_group(group_);  // members that have exited since the scan above
        return false;
      }
      member_ = KeptPidfd(open_pidfd(*pid), *pid);
      if (!member_) return true;  // no pidfd
      // Before the pidfd was opened the member may have exited, and another process may have got its id.
      if (::getpgid(*pid) == group_ && lives()) return true;
      member_.reset();
    }
    return false;
  }

  /// The pidfd to watch for the member's exit; -1 if there is none.
  int member() const noexcept { return member_.get(); }

  /// Sends SIGKILL to the group. The member is suspended first, so that it cannot exit in between and free the group's
  /// id.
  void kill() noexcept {
    while (hold_member()) {
      if (member_) {
        member_.send(SIGSTOP);
        if (!lives()) continue;
      }
      signal_group(group_, SIGKILL);
      return;
    }
  }

 private:
  bool lives() const noexcept {
    if (!member_ || !member_.names_process()) return false;
    pollfd end{member_.get(), POLLIN, 0};
    return ::poll(&end, 1, 0) == 0;
  }

  pid_t group_;
  bool collects_;
  KeptPidfd member_;
};

}}}  // namespace drover::v1::detail
