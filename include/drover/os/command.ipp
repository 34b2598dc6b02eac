#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include <asio/any_io_executor.hpp>

#include <drover/os/command.hpp>
#include <drover/os/detail/line_handler.hpp>

namespace drover { inline namespace v1 {

DROVER_INLINE Stdio Stdio::lines(asio::any_io_executor executor, std::function<void(std::string_view)> handler,
                                 LinesOptions options) {
  return Stdio(std::make_shared<detail::LineTarget>(std::move(executor), std::move(handler), options));
}

}}  // namespace drover::v1
