defmodule Mix.Tasks.EmbeddedEpmd.Names do
  @shortdoc "Lists the nodes of a host with their ports"

  @moduledoc """
  Lists the nodes that are registered with a host's EPMD, be it OTP's daemon or this library.

      mix embedded_epmd.names [HOST] [--port PORT] [--json] [--watch]

  HOST is a name or an address, by default 127.0.0.1. PORT is by default that of `ERL_EPMD_PORT` or of `config.exs`,
  else 4369. The task ends with status 1 when no EPMD answers.

  OTP's daemon takes names of any bytes. Of those that cannot be printed, such as control characters, each byte is shown
  as `\\xNN`.

  `--json` prints one JSON document, an array of objects with `name`, `port` and `address`. Characters that cannot be
  printed are `\\uNNNN` there, and bytes that are no UTF-8 the text `\\xNN`.

  `--watch` asks every second until Ctrl-C, and prints the list whenever it has changed. On a terminal each list
  replaces the last one; otherwise, and with `--json`, it is written below. For this host, on Linux, it also shows
  which node owns the port and which stand by, as far as this user may see that. When no EPMD answers, it says so, or
  prints `null` with `--json`, and goes on asking.
  """

  use Mix.Task

  alias EmbeddedEpmd.{Client, Config, HostAddress, NetworkError, Printable, Roles}
  alias Mix.EmbeddedEpmd, as: Project

  @timeout 5_000
  # Between two requests of --watch; milliseconds.
  @pause 1_000
  # To which the column of names is filled up; characters. One long name must not make all lines long.
  @widest 64

  @impl Mix.Task
  def run(arguments) do
    {options, hosts} = Project.arguments!(arguments, [port: :integer, json: :boolean, watch: :boolean], ["HOST"])
    host = List.first(hosts, "127.0.0.1")
    ip = resolve!(host)
    port = port!(options[:port])
    if options[:watch], do: watch(ip, host, port, options, nil), else: list(ip, host, port, options)
  end

  defp list(ip, host, port, options) do
    case Client.names(ip, port, @timeout) do
      {:ok, names} ->
        rows = rows(names, ip)
        Mix.shell().info(if options[:json], do: json(rows), else: table(rows, host, port))

      {:error, reason} ->
        Mix.raise(no_answer(host, port, reason))
    end
  end

  defp watch(ip, host, port, options, last) do
    shown =
      case Client.names(ip, port, @timeout) do
        {:ok, names} -> if options[:json], do: json(rows(names, ip)), else: roles(names, ip, host, port)
        {:error, reason} -> if options[:json], do: "null", else: no_answer(host, port, reason)
      end

    if shown != last, do: show(shown, IO.ANSI.enabled?() and !options[:json])
    Process.sleep(@pause)
    watch(ip, host, port, options, shown)
  end

  defp show(text, true), do: IO.write([IO.ANSI.clear(), IO.ANSI.home(), text, "\n"])
  defp show(text, false), do: IO.write([text, "\n"])

  defp roles(names, ip, host, port) do
    roles = if HostAddress.own?(ip), do: Roles.of(Enum.map(names, &elem(&1, 1)), port), else: %{nodes: %{}, others: []}
    others = for {role, program, pid} <- roles.others, do: "#{role}: #{Printable.text(program)}, pid #{pid}"
    Enum.join([table(rows(names, ip), host, port, roles.nodes) | others], "\n")
  end

  defp no_answer(host, port, reason), do: "no EPMD answers at #{host}, port #{port}: #{NetworkError.format(reason)}"

  defp rows(names, ip), do: for({name, port} <- Enum.sort(names), do: {name, port, at(ip)})

  defp at(ip), do: to_string(:inet.ntoa(ip))

  defp port!(nil) do
    Config.load().port
  rescue
    error in ArgumentError -> Mix.raise(error.message)
  end

  defp port!(port) when port in 1..65_535, do: port
  defp port!(port), do: Mix.raise("--port must be a port from 1 to 65535, got: #{port}")

  defp resolve!(host) do
    case HostAddress.resolve(String.to_charlist(host)) do
      {:ok, ip} -> ip
      {:error, reason} -> Mix.raise("the host #{host} has no address: #{NetworkError.format(reason)}")
    end
  end

  defp table(rows, host, port, roles \\ %{})
  defp table([], host, port, _roles), do: "no node is registered at #{host}, port #{port}"

  # The column of roles is left out if there are none.
  defp table(rows, _host, _port, roles) do
    lines = for {name, port, ip} <- rows, do: {Printable.text(name), to_string(port), ip, to_string(roles[port])}
    lines = [{"NAME", "PORT", "ADDRESS", if(roles == %{}, do: "", else: "ROLE")} | lines]
    width = fn column -> lines |> Enum.map(&String.length(elem(&1, column))) |> Enum.max() end
    {names, addresses} = {min(width.(0), @widest), width.(2)}

    Enum.map_join(lines, "\n", fn {name, port, ip, role} ->
      [String.pad_trailing(name, names), String.pad_leading(port, 5), String.pad_trailing(ip, addresses), role]
      |> Enum.join("  ")
      |> String.trim_trailing()
    end)
  end

  defp json(rows) do
    objects =
      for {name, port, ip} <- rows, do: ~s({"name": #{Printable.json(name)}, "port": #{port}, "address": "#{ip}"})

    "[" <> Enum.join(objects, ", ") <> "]"
  end
end
