defmodule EmbeddedEpmd.Doctor.NetworkError do
  @moduledoc false
  # Errors of sockets, of the resolver and of `Client` as text. `:inet.format_error/1` knows those of POSIX only.

  @spec format(term()) :: String.t()
  def format(:timeout), do: "no answer in time"
  def format(:closed), do: "connection closed"
  # `Client` got an answer that no EPMD gives, or none.
  def format(reason) when reason in [:address, :noport], do: "whoever answers there is no EPMD, or refuses to tell"

  def format(:too_long), do: "the listing is longer than 16 MiB"

  # OTP 27 and later take atoms alone.
  def format(reason) when is_atom(reason) do
    case to_string(:inet.format_error(reason)) do
      "unknown POSIX error" <> _ -> inspect(reason)
      text -> text
    end
  end

  def format(reason), do: inspect(reason)
end
