#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include <drover/detail/context/async_event.hpp>
#include <drover/os/command.hpp>
#include <drover/pool/options.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One WorkerPool::reload(): how far it has come, and its result. PoolSlots carries it out. Guarded by the dispatcher's
/// mutex.
class Reload {
 public:
  /// Without a command, the workers keep theirs.
  explicit Reload(std::optional<Command> command) : command_(std::move(command)) {}

  /// The options of the workers to be started, from those of one that is to be replaced. They are made once, so that a
  /// worker of this reload is known by their address.
  const std::shared_ptr<const WorkerOptions>& options(const WorkerOptions& before) {
    if (!options_) {
      WorkerOptions options = before;
      if (command_) options.command = std::move(*command_);
      options_ = std::make_shared<const WorkerOptions>(std::move(options));
    }
    return options_;
  }
  bool made(const std::shared_ptr<const WorkerOptions>& options) const noexcept {
    return options_ && options == options_;
  }

  std::size_t slot() const noexcept { return slot_; }
  /// The slot's worker is to be replaced now. Its options, to be restored if that fails.
  void begin_slot(std::shared_ptr<const WorkerOptions> before) noexcept {
    begun_ = true;
    before_ = std::move(before);
  }
  bool slot_begun() const noexcept { return begun_; }
  const std::shared_ptr<const WorkerOptions>& options_before() const noexcept { return before_; }
  void end_slot() noexcept {
    ++report_.replaced;
    skip_slot();
  }
  /// It has no worker to replace.
  void skip_slot() noexcept {
    ++slot_;
    begun_ = false;
  }
  void add(StopReport stop) noexcept {
    try {
      report_.stopped.push_back(std::move(stop));
    } catch (...) {  // no memory: the reload itself goes on
    }
  }

  /// Null: with success. over() is to be set then.
  void end(std::exception_ptr failure) noexcept {
    ended_ = true;
    report_.elapsed = Clock::now() - begun_at_;
    failure_ = std::move(failure);
  }
  bool ended() const noexcept { return ended_; }
  const std::shared_ptr<AsyncEvent>& over() const noexcept { return over_; }
  /// Throws what ended it. After over().
  ReloadReport result() const {
    if (failure_) std::rethrow_exception(failure_);
    return report_;
  }

 private:
  std::optional<Command> command_;
  std::shared_ptr<const WorkerOptions> options_, before_;
  const Clock::time_point begun_at_ = Clock::now();
  std::size_t slot_ = 0;
  bool begun_ = false, ended_ = false;
  ReloadReport report_;
  std::exception_ptr failure_;
  const std::shared_ptr<AsyncEvent> over_ = std::make_shared<AsyncEvent>();
};

}}}  // namespace drover::v1::detail
