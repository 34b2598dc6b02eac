#pragma once

#include <memory>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/detail/config.hpp>
#include <drover/os/detail/program_exit.hpp>
#include <drover/pool/options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;
class EventSink;
class WorkerCore;

/// Owns a worker from the outside: once the handle is gone, the worker is the reaper's. Move-only; may be empty.
class WorkerHandle {
 public:
  WorkerHandle() = default;
  WorkerHandle(const asio::any_io_executor& executor, WorkerOptions options, bool takes_calls);
  WorkerHandle(WorkerHandle&&) noexcept = default;
  WorkerHandle& operator=(WorkerHandle&& other) noexcept {
    if (this == &other) return *this;
    let_go();
    dispatcher_ = std::move(other.dispatcher_);
    events_ = std::move(other.events_);
    core_ = std::move(other.core_);
    return *this;
  }
  ~WorkerHandle() { let_go(); }

  explicit operator bool() const noexcept { return core_ != nullptr; }
  /// Why no operation can begin: the handle is empty, or this is a forked copy of the program. Null if one can.
  std::exception_ptr refusal() const;
  const std::shared_ptr<WorkerCore>& core() const noexcept { return core_; }
  const std::shared_ptr<Dispatcher>& dispatcher() const noexcept { return dispatcher_; }

 private:
  void let_go() noexcept;

  std::shared_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<EventSink> events_;
  std::shared_ptr<WorkerCore> core_;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/pool/detail/worker/handle.ipp>
#endif
