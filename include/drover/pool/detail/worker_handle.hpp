#pragma once

#include <exception>
#include <memory>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker_core.hpp>
#include <drover/pool/options.hpp>

namespace drover::inline v1::detail {

/// Owns a worker from the outside: once the handle is gone, the worker is the reaper's. Move-only; may be empty.
class WorkerHandle {
 public:
  WorkerHandle() = default;
  WorkerHandle(const asio::any_io_executor& executor, WorkerOptions options, bool takes_calls)
      : dispatcher_(Dispatcher::create(executor, options, std::nullopt)),
        events_(EventSink::create(executor, options.on_event)) {
    dispatcher_->refuse([what = "worker '" + options.name + "' is not running; await start() first"] {
      return std::make_exception_ptr(Error(Errc::not_running, what));
    });
    core_ = WorkerCore::create(executor, std::move(options), dispatcher_, events_,
                               {.takes_calls = takes_calls, .solo = true});
  }
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
  const std::shared_ptr<WorkerCore>& core() const noexcept { return core_; }
  const std::shared_ptr<Dispatcher>& dispatcher() const noexcept { return dispatcher_; }

 private:
  void let_go() noexcept {
    if (core_ && !core_->foreign()) {  // in a forked copy of the program the worker is not ours
      if (events_) events_->close();
      core_->abandon();
      dispatcher_->close();
    }
    core_.reset();
  }

  std::shared_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<EventSink> events_;
  std::shared_ptr<WorkerCore> core_;
};

inline std::exception_ptr empty_handle() {
  return std::make_exception_ptr(
      Error(Errc::not_running, "there is nothing here: it was default-constructed or moved from"));
}

template <class T>
asio::awaitable<T> failed(std::exception_ptr failure) {
  std::rethrow_exception(failure);
  co_return T();
}
template <>
inline asio::awaitable<void> failed<void>(std::exception_ptr failure) {
  std::rethrow_exception(failure);
  co_return;
}

inline asio::awaitable<void> start_and_wait(std::shared_ptr<WorkerCore> core, Timeout timeout) {
  if (!core) std::rethrow_exception(empty_handle());
  core->begin_start(timeout);
  co_await WorkerCore::await_start(core);
}

inline asio::awaitable<WorkerMetadata> start_and_introduce(std::shared_ptr<WorkerCore> core, Timeout timeout) {
  co_await start_and_wait(core, timeout);
  co_return *core->metadata();
}

}  // namespace drover::inline v1::detail
