defmodule EmbeddedEpmd.Boot.Log do
  @moduledoc false
  # Logs to Erlang's logger, with reports.

  alias EmbeddedEpmd.Boot.Printable

  @prefix "embedded_epmd: "

  @doc "Logs a sentence and its fields as a report."
  @spec log(:logger.level(), :unicode.chardata(), [{atom(), String.t()}]) :: :ok
  def log(level, sentence, fields \\ []) do
    report = :maps.from_list([{:what, text(sentence)} | fields])
    # The logger can have a level for the module.
    metadata = :maps.from_list([{:report_cb, &__MODULE__.format/1}, {:mfa, {__MODULE__, :log, 3}} | fields])
    :logger.log(level, report, :maps.merge(metadata, domain()))
  end

  @doc "Lets entries from this level on through, whatever the logger's primary level is; `nil` leaves it to that again."
  @spec let_through(:none | :logger.level() | nil) :: :ok
  def let_through(level) when level in [nil, :none], do: :logger.unset_module_level(__MODULE__)

  def let_through(level) do
    _ = :logger.set_module_level(__MODULE__, level)
    :ok
  end

  # Without Elixir's Logger there is only OTP's handler, which drops every domain but OTP's own.
  defp domain, do: if(:erlang.whereis(Logger.Supervisor) == :undefined, do: %{}, else: %{domain: [:embedded_epmd]})

  # Errors are also returned, or printed by others, and then have to say whose they are.
  defp text(sentence) do
    case :string.prefix(sentence, @prefix) do
      :nomatch -> :unicode.characters_to_binary(sentence)
      rest -> :unicode.characters_to_binary(rest)
    end
  end

  @doc false
  # Formats a report as one line. Names are chosen by whoever registers them.
  def format(%{what: text} = report) do
    fields =
      :lists.map(
        fn {key, value} -> [" ", :erlang.atom_to_binary(key), "=", Printable.text(value)] end,
        :maps.to_list(:maps.remove(:what, report))
      )

    {~c"~ts~ts~ts", [@prefix, Printable.text(text), fields]}
  end
end
