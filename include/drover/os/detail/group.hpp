#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <memory>
#include <signal.h>
#include <string>
#include <sys/prctl.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/// What is left of a process group after its leader has been reaped. All of it has been sent SIGKILL, but a signal sent
/// is not yet a process gone.
namespace drover::inline v1::detail {

/// Are orphans of our descendants handed to us?
inline bool adopts_orphans() noexcept {
  int on = 0;
  return ::getpid() == 1 || (::prctl(PR_GET_CHILD_SUBREAPER, &on) == 0 && on != 0);
}

/// Takes away those zombies of the group that have become our children.
inline void collect_group(pid_t group) noexcept {
  siginfo_t info{};
  do {
    info.si_pid = 0;
  } while (::waitid(P_PGID, static_cast<id_t>(group), &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0);
}

/// False once the group has no member, not even a zombie.
inline bool group_exists(pid_t group) noexcept { return ::kill(-group, 0) == 0; }

/// Reads all of /proc to tell members that live from zombies that nobody collects.
inline bool group_has_living(pid_t group) noexcept {
  const std::unique_ptr<DIR, int (*)(DIR*)> processes(::opendir("/proc"), &::closedir);
  if (!processes) return false;
  while (const dirent* entry = ::readdir(processes.get())) {
    if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%.20s/stat", entry->d_name);
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "re"), &std::fclose);
    char text[512];
    if (!file || std::fgets(text, sizeof text, file.get()) == nullptr) continue;
    const char* after_name = std::strrchr(text, ')');  // the name may hold anything, see proc(5)
    char state = 0;
    int parent = 0;
    int its_group = 0;
    if (after_name == nullptr || std::sscanf(after_name + 1, " %c %d %d", &state, &parent, &its_group) != 3) continue;
    if (its_group == group && state != 'Z' && state != 'X') return true;
  }
  return false;
}

}  // namespace drover::inline v1::detail
