#pragma once

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Constructed before every later global of each file that includes this header, so that globals that own processes are
/// destroyed before the exit hook runs.
struct ExitGuard {
  ExitGuard() noexcept = default;
  ~ExitGuard();
  ExitGuard(const ExitGuard&) = delete;
  ExitGuard& operator=(const ExitGuard&) = delete;
};
inline const ExitGuard exit_guard;

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/os/detail/program_exit.ipp>
#endif
