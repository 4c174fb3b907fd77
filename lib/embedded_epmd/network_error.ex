defmodule EmbeddedEpmd.NetworkError do
  @moduledoc false
  # Errors of sockets, of the resolver and of `Client` as text. `:inet.format_error/1` knows those of POSIX only.

  @unknown ~c"unknown POSIX error"

  @spec format(term()) :: String.t()
  def format(:timeout), do: "no answer in time"
  def format(:closed), do: "connection closed"
  # `Client` got an answer that no EPMD gives, or none.
  def format(reason) when reason in [:address, :noport], do: "whoever answers there is no EPMD, or refuses to tell"

  def format(reason) do
    case :inet.format_error(reason) do
      @unknown -> inspect(reason)
      text -> to_string(text)
    end
  end
end
