#pragma once

namespace drover::inline v1::detail {

/// Built before every later global of each file that includes this, so that globals that own processes are destroyed
/// before the exit hook runs.
struct ExitGuard {
  ExitGuard() noexcept = default;
  ~ExitGuard();  // reaper.hpp
  ExitGuard(const ExitGuard&) = delete;
  ExitGuard& operator=(const ExitGuard&) = delete;
};
inline const ExitGuard exit_guard;

}  // namespace drover::inline v1::detail
