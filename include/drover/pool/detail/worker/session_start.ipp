#pragma once

#include <algorithm>
#include <optional>
#include <stdexcept>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/execution.hpp>
#include <asio/prefer.hpp>
#include <asio/query.hpp>

#include <drover/error.hpp>
#include <drover/pool/detail/worker/session.hpp>
#include <drover/pool/detail/worker/spawn_worker.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline WorkerCore::Io::Io(const asio::any_io_executor& ex)
    : executor(ex),
      work(asio::prefer(ex, asio::execution::outstanding_work.tracked)),
      control(ex),
      data(ex),
      start_timer(ex),
      end_timer(ex),
      memory_timer(ex) {}

inline WorkerCore::Io::~Io() {
  // The channels own the descriptors; this only watches them.
  if (control.is_open()) control.release();
  if (data.is_open()) data.release();
}

inline std::shared_ptr<WorkerCore> WorkerCore::create(const asio::any_io_executor& executor, WorkerOptions options,
                                                      std::shared_ptr<Dispatcher> dispatcher,
                                                      std::shared_ptr<EventSink> events, Mode mode) {
  std::shared_ptr<WorkerCore> core(
      new WorkerCore(std::move(options), std::move(dispatcher), std::move(events), Courier::create(executor), mode));
  const auto& home = core->dispatcher_->home();
  const auto at_home = home->lock();
  if (home->down()) {
    core->evicted_ = true;
  } else {
    core->executor_before_start_ = executor;
    home->move_in(core);
  }
  return core;
}

inline WorkerCore::~WorkerCore() { release_io(); }

inline void WorkerCore::begin_start(Timeout timeout) {
  check_start_timeout(timeout);
  check(options_);
  {
    const auto held = lock();
    if (phase_ != Phase::fresh && !std::exchange(announced_, false))
      throw std::logic_error("start() may be called once only; this worker was started before");
    if (evicted_) throw Error(Errc::not_running, "the io_context of this worker is gone");
    phase_ = Phase::starting;
  }
  Launched launched;
  try {
    launched = launch(options_, [weak = weak_from_this()](const ChildEvent& event) {
      if (const auto core = weak.lock()) core->on_child_event(event);
    });
  } catch (...) {
    const auto held = lock();
    phase_ = Phase::ended;
    started_->set();
    finished_->set();
    throw;
  }
  const auto held = lock();
  child_ = std::move(launched.child);
  emit(Event::Kind::spawned);
  if (evicted_) {  // meanwhile
    child_->abandon();
    return;
  }
  try {
    connect(std::move(launched.control), std::move(launched.data), timeout);
  } catch (...) {  // it is there, but can't be watched
    fail_start(std::current_exception());
  }
  if (stop_.begun()) reap_within(Duration::zero());
  if (std::exchange(end_waits_, false)) to_executor_->post([self = shared_from_this()] { self->on_ended(true); });
}

inline void WorkerCore::connect(UniqueFd control, UniqueFd data, Timeout timeout) {
  const auto& home = dispatcher_->home();
  const auto at_home = home->lock();
  constexpr std::size_t control_buffer = 4096;  // its frames are small
  control_.emplace(std::move(control), max_control_body, control_buffer);
  control_->distrust();
  data_socket_ = std::move(data);
  if (home->down()) return;
  io_ = std::make_unique<Io>(executor_before_start_);
  executor_before_start_ = {};
  io_->control.assign(control_->fd());
  io_->data.assign(data_socket_.get());
  start_by_ = deadline_after(Clock::now(), timeout);
  if (start_by_) {
    io_->start_timer.expires_at(*start_by_);
    io_->start_timer.async_wait([weak = weak_from_this()](std::error_code ec) {
      if (ec) return;
      if (const auto core = weak.lock()) core->on_start_timeout();
    });
  }
  watch_control();
}

inline asio::awaitable<void> WorkerCore::await_start(std::shared_ptr<WorkerCore> core) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::optional<asio::steady_timer> own_turn;
  if (core->start_by_ && !core->at_home(executor)) {
    own_turn.emplace(executor, *core->start_by_);
    own_turn->async_wait([core, executor](std::error_code ec) {
      if (!ec) asio::co_spawn(executor, conclude_start(core), asio::detached);
    });
  }
  bool cancelled = false;
  try {
    co_await AsyncEvent::wait(core->started_);
  } catch (const std::system_error&) {
    cancelled = true;
  }
  if (cancelled) {
    core->abort_stop();
    try {
      co_await await_end(core, 1);
    } catch (const std::system_error&) {  // a second time: the reaper goes on alone
    }
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancelled) throw std::system_error(std::error_code(asio::error::operation_aborted));
  const std::exception_ptr failure = core->take_start_failure();
  if (!failure) co_return;
  if (core->events_) co_await EventSink::all_told(core->events_, core->patience_with_handlers(executor));
  std::rethrow_exception(failure);
}

inline asio::awaitable<void> WorkerCore::conclude_start(std::shared_ptr<WorkerCore> core) {
  core->on_start_timeout();
  if (core->started_->is_set()) co_return;
  co_await AsyncEvent::wait(core->child_->settled());
  core->on_ended(false);  // not if the kernel refused to kill it: then it is still there, and the reaper waits
}

inline void WorkerCore::on_start_timeout() {
  const auto held = lock();
  if (phase_ != Phase::starting || start_failure_) return;
  // Once more before it is declared late: this process may have been the one that slept.
  take_control_frames(16);
  if (phase_ != Phase::starting || start_failure_) return;
  fail_start(std::make_exception_ptr(
      Error(Errc::start_timeout,
            "worker '" + options_.name + "' (" + options_.command.program.string() + ") was not ready in time" +
                (child_ && child_->stopped() ? stop_remark() : "; does its main() reach drover::serve()?"))));
}

inline void WorkerCore::fail_start(std::exception_ptr failure) {
  if (phase_ != Phase::starting || start_failure_) return;
  start_failure_ = std::move(failure);
  expected_end_ = true;
  reap_within(Duration::zero());
}

inline void WorkerCore::hello(const Frame& frame) {
  const auto version = hello_version(frame.header.id);
  if (!version) throw Error(Errc::protocol_error, "the first message is no greeting of a drover worker");
  if (*version != protocol_version)
    throw Error(Errc::version_mismatch, "worker '" + options_.name + "' speaks version " + std::to_string(*version) +
                                            " of the protocol, this program speaks " +
                                            std::to_string(protocol_version) + "; build both with the same drover");
  if (phase_ != Phase::starting || start_failure_ || stop_.begun()) return;
  WorkerMetadata metadata;
  try {
    Hello greeting = decode_hello(frame.body);
    metadata.version = std::move(greeting.version);
    metadata.routines = std::move(greeting.routines);
  } catch (const DecodeError& error) {
    throw Error(Errc::protocol_error, std::string("malformed greeting: ") + error.what());
  }
  std::sort(metadata.routines.begin(), metadata.routines.end());
  metadata.name = options_.name;
  metadata.pid = greeted_by_.value_or(child_->pid());
  metadata.tags = options_.tags;
  metadata.extra = options_.extra;
  metadata_ = std::move(metadata);
  phase_ = Phase::ready;
  io_->start_timer.cancel();
  emit(Event::Kind::ready);
  if (mode_.takes_calls) {
    lane_.connect(std::move(data_socket_), std::max(options_.max_message_size, least_max_body));
    if (child_->running()) lane_.open();  // what waits is not for one that has ended already
    dispatcher_->add_lane(lane_);
    watch_data();
    if (mode_.solo) dispatcher_->refuse(nullptr);
    dispatcher_->pump();
  }
  if (const auto supervision = supervision_.lock()) supervision->worker_ready(*this);
  started_->set();
}

}}}  // namespace drover::v1::detail
