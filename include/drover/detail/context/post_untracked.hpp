#pragma once

#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/prefer.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Posts to an executor that tracks work, without a copy of it on this thread. Such a copy may be the last work of an
/// io_context, and may be gone only after the function has run and the io_context has been stopped and restarted: its
/// end would stop it once more. The function keeps the work.
template <class F>
void post_untracked(const asio::any_io_executor& executor, F function) {
  asio::post(asio::prefer(executor, asio::execution::outstanding_work.untracked), std::move(function));
}

}}}  // namespace drover::v1::detail
