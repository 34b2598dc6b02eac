#pragma once

#include <atomic>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// How far the program is on the way to its end, or to the exec that replaces it. Its processes end with it: see
/// exit_guard and prepare_for_exec().
class ProgramExit {
 public:
  static bool processes_may_start() noexcept { return stage_.load() == Stage::running; }

  /// True once the exit hook has run: nobody waits for processes any more.
  static bool over() noexcept { return stage_.load() == Stage::over; }

  /// Sets the function that the exit hook calls, see ~ExitGuard(). It ends the processes that still run.
  static void set_hook(void (*end_processes)() noexcept) noexcept {
    end_processes_.store(end_processes, std::memory_order_release);
  }

  // prepare_for_exec() ends the processes, too, but the program goes on if its exec fails. Several threads may do that
  // at a time. The caller holds the lock that the reaper thread is created under.
  static void begin_clearing() noexcept {
    ++clearing_;
    move_on(Stage::running, Stage::clearing);
  }
  static void end_clearing() noexcept {
    if (--clearing_ == 0) move_on(Stage::clearing, Stage::running);
  }
  /// In a forked copy: the threads that were clearing belong to the original.
  static void forget_clearing() noexcept {
    clearing_ = 0;
    move_on(Stage::clearing, Stage::running);
  }

 private:
  friend struct ExitGuard;
  enum class Stage { running, clearing, ending, over };

  // Does nothing if the program has begun to end meanwhile.
  static void move_on(Stage from, Stage to) noexcept { stage_.compare_exchange_strong(from, to); }

  inline static std::atomic<Stage> stage_{Stage::running};
  inline static std::atomic<void (*)() noexcept> end_processes_{nullptr};
  inline static int clearing_ = 0;  // threads
};

/// Constructed before every later global of each file that includes this header, so that globals that own processes are
/// destroyed before the exit hook, its destructor, runs.
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
