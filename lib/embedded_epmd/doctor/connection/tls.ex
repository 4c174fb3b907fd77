defmodule EmbeddedEpmd.Doctor.Connection.Tls do
  @moduledoc false
  # TLS over a connection, with the options of this VM's own distribution.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection.{Handshake, Reach}
  alias EmbeddedEpmd.Doctor.{Connection, Finding}

  @doc "Upgrades the connection to TLS, before its deadline."
  @spec secure(Connection.state()) :: {:ok, Handshake.t()} | {:error, term()}
  def secure(%{link: %{socket: socket} = link} = state) do
    options = [mode: :binary, active: false, packet: :raw] ++ processes(state) ++ options()

    # A VM whose distribution is over TLS has the application ssl. It is no dependency of this library.
    connect = Function.capture(:ssl, :connect, 3)

    with {:ok, socket} <- connect.(socket, options, Handshake.time_left(link)),
         do: {:ok, Handshake.with_timeout(%{link | transport: :ssl, socket: socket, length_bits: 32}, Reach.timeout())}
  end

  # With erl_dist ssl uses the processes of the distribution, which run even if the application ssl does not.
  defp processes(%{here: nil}), do: with({:ok, _} <- Application.ensure_all_started(:ssl), do: [])
  defp processes(_state), do: [erl_dist: true]

  @spec refused(Connection.state(), term()) :: Finding.t()
  def refused(state, reason) do
    problem(
      "#{state.node} and this VM do not agree on TLS: #{text(reason)}.",
      "Each of the two nodes presents a certificate, and the other may reject it.",
      "Compare the options of both (-ssl_dist_optfile, -ssl_dist_opt): certificates, their dates, authorities, " <>
        "versions. The log there has the other side's reason."
    )
  end

  defp text({:tls_alert, {alert, _text}}), do: "alert #{alert}"
  defp text(reason) when is_atom(reason), do: to_string(reason)
  defp text(reason), do: inspect(reason)

  @doc "The options of this VM as a client, read as inet_tls_dist does, whose function is not exported."
  @spec options() :: keyword()
  def options do
    options = by_flags(:init.get_argument(:ssl_dist_opt)) ++ by_file()

    if options == [] or Keyword.has_key?(options, :versions),
      do: options,
      else: [{:versions, [:"tlsv1.3", :"tlsv1.2"]} | options]
  end

  defp by_file do
    case :ets.lookup(:ssl_dist_opts, :client) do
      [client: options] -> options
      [] -> []
    end
  rescue
    ArgumentError -> []
  end

  defp by_flags({:ok, values}), do: values |> Enum.concat() |> Enum.chunk_every(2) |> Enum.flat_map(&by_flag/1)
  defp by_flags(:error), do: []

  defp by_flag([~c"client_" ++ name, value]) do
    case List.to_string(name) do
      file when file in ~w(certfile cacertfile keyfile password) -> [{String.to_atom(file), value}]
      "verify" -> [verify: List.to_atom(value)]
      "depth" -> [depth: List.to_integer(value)]
      "ciphers" -> [ciphers: value]
      _ -> []
    end
  end

  defp by_flag(_other), do: []
end
