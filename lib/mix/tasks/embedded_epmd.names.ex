defmodule Mix.Tasks.EmbeddedEpmd.Names do
  @shortdoc "Lists the nodes of a host with their ports"

  @moduledoc """
  Lists the nodes that are registered with a host's EPMD, be it OTP's daemon or this library.

      mix embedded_epmd.names [HOST] [--port PORT] [--json] [--watch]

  HOST is a name or an address, by default 127.0.0.1. PORT is by default that of `ERL_EPMD_PORT` or of `config.exs`,
  else 4369. The task exits with status 1 when no EPMD answers.

  OTP's daemon takes names of any bytes. Each byte of a character that cannot be printed, such as a control character,
  is shown as `\\xNN`.

  `--json` prints one JSON document, an array of objects with `name`, `port` and `address`. In it, characters that
  cannot be printed are `\\uNNNN`, and bytes that are not UTF-8 are the text `\\xNN`.

  `--watch` asks every second until Ctrl-C, and prints the list whenever it has changed. On a terminal each list
  replaces the last one; otherwise, and with `--json`, it is written below. For this host, on Linux, it also shows which
  node owns the port and which nodes stand by, as far as this user may see that. It shows a name for a minute after it
  left, even if it was registered only for a moment. When no EPMD answers, it prints that, or `null` with `--json`, and
  goes on asking.
  """

  use Mix.Task

  alias EmbeddedEpmd.Boot.{Client, HostAddress, Printable}
  alias EmbeddedEpmd.Doctor.{NetworkError, Roles}
  alias Mix.EmbeddedEpmd, as: Project

  @timeout 5_000
  # Between two requests of --watch; milliseconds.
  @pause 1_000
  # To which the column of names is filled up; characters. One long name must not make all lines long.
  @widest 64
  # How long it is shown who has gone, in seconds, and how many at most.
  @shown_for 60
  @shown 5

  @impl Mix.Task
  def run(arguments) do
    {options, hosts} = Project.arguments!(arguments, [port: :integer, json: :boolean, watch: :boolean], ["HOST"])
    host = List.first(hosts, "127.0.0.1")
    ip = resolve!(host)
    port = Project.port!(options[:port])

    if options[:watch],
      do: watch(ip, host, port, options, %{shown: nil, left: nil, gone: []}),
      else: list(ip, host, port, options)
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
    {shown, left, gone} =
      case Client.names(ip, port, @timeout) do
        {:ok, names} ->
          {left, gone} = if options[:json], do: {nil, []}, else: gone(last, ip, port)
          shown = if options[:json], do: json(rows(names, ip)), else: roles(names, ip, host, port) <> told(gone)
          {shown, left, gone}

        {:error, reason} ->
          {if(options[:json], do: "null", else: no_answer(host, port, reason)), nil, last.gone}
      end

    if shown != last.shown, do: show(shown, IO.ANSI.enabled?() and !options[:json])
    Process.sleep(@pause)
    watch(ip, host, port, options, %{shown: shown, left: left, gone: gone})
  end

  # The EPMD of this host remembers who left, and lists that in its order. What has left since the last time is at the end.
  defp gone(last, ip, port) do
    now = System.os_time(:second)
    recent = Enum.filter(last.gone, fn {_node, time} -> now - time < @shown_for end)

    with true <- HostAddress.own?(ip), {:ok, left} <- Client.departed(ip, port, @timeout) do
      new = if last.left, do: new(left, last.left), else: []
      {left, Enum.take(Enum.map(Enum.reverse(new), &{&1, now}) ++ recent, @shown)}
    else
      _ -> {nil, recent}
    end
  end

  @doc false
  @spec new([node], [node]) :: [node] when node: term()
  def new([node | left], before) do
    case Enum.drop_while(before, &(&1 != node)) do
      [_ | before] -> new(left, before)
      # Those before came back or were forgotten; this one is new, and so are all behind it that were not there.
      [] -> [node | new(left, before)]
    end
  end

  def new([], _before), do: []

  defp told(gone) do
    Enum.map_join(gone, fn {{name, port}, time} ->
      {_, {hour, minute, second}} = :calendar.system_time_to_local_time(time, :second)
      time = Enum.map_join([hour, minute, second], ":", &String.pad_leading("#{&1}", 2, "0"))
      "\ngone at #{time}: #{Printable.text(name)}, port #{port}"
    end)
  end

  defp show(text, true), do: IO.write([IO.ANSI.clear(), IO.ANSI.home(), text, "\n"])
  defp show(text, false), do: IO.write([text, "\n"])

  defp roles(names, ip, host, port) do
    roles = if HostAddress.own?(ip), do: Roles.of(Enum.map(names, &elem(&1, 1)), port), else: Roles.none()
    others = for {role, program, pid} <- roles.others, do: "#{role}: #{Printable.text(program)}, pid #{pid}"
    Enum.join([table(rows(names, ip), host, port, roles) | others], "\n")
  end

  defp no_answer(host, port, reason), do: "no EPMD answers at #{host}, port #{port}: #{NetworkError.format(reason)}"

  defp rows(names, ip), do: for({name, port} <- Enum.sort(names), do: {name, port, at(ip)})

  defp at(ip), do: to_string(:inet.ntoa(ip))

  defp resolve!(host) do
    case HostAddress.resolve(String.to_charlist(host)) do
      {:ok, ip} -> ip
      {:error, reason} -> Mix.raise("the host #{host} has no address: #{NetworkError.format(reason)}")
    end
  end

  defp table(rows, host, port, roles \\ Roles.none())
  defp table([], host, port, _roles), do: "no node is registered at #{host}, port #{port}"

  # The columns of users and of roles are left out if there are none.
  defp table(rows, _host, _port, %{users: users, nodes: roles}) do
    column = fn title, known -> if known == %{}, do: "", else: title end

    lines =
      for {name, port, ip} <- rows,
          do: {Printable.text(name), to_string(port), ip, to_string(users[port]), to_string(roles[port])}

    lines = [{"NAME", "PORT", "ADDRESS", column.("USER", users), column.("ROLE", roles)} | lines]
    width = fn column -> lines |> Enum.map(&String.length(elem(&1, column))) |> Enum.max() end
    {names, addresses, numbers} = {min(width.(0), @widest), width.(2), width.(3)}

    Enum.map_join(lines, "\n", fn {name, port, ip, user, role} ->
      user = if numbers > 0, do: [String.pad_leading(user, numbers)], else: []

      ([String.pad_trailing(name, names), String.pad_leading(port, 5), String.pad_trailing(ip, addresses)] ++
         user ++ [role])
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
