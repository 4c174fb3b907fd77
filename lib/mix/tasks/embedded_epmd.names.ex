defmodule Mix.Tasks.EmbeddedEpmd.Names do
  @shortdoc "Lists the nodes of a host with their ports"

  @moduledoc """
  Lists the nodes that are registered with a host's EPMD, whoever serves it.

      mix embedded_epmd.names [HOST] [--port PORT] [--json]

  HOST is a name or an address, this host by default. The port is that of `ERL_EPMD_PORT`, 4369 without it. With `--json`
  the list is one JSON document. Ends with status 1 when nobody answers.
  """

  use Mix.Task

  alias EmbeddedEpmd.Client

  @timeout 5_000

  @impl Mix.Task
  def run(arguments) do
    {options, hosts} = OptionParser.parse!(arguments, strict: [port: :integer, json: :boolean])
    host = host!(hosts)
    ip = resolve!(host)
    port = options[:port] || EmbeddedEpmd.Config.load().port

    case Client.names(ip, port, @timeout) do
      {:ok, names} ->
        rows = for {name, port} <- Enum.sort(names), do: {name, port, to_string(:inet.ntoa(ip))}
        Mix.shell().info(if options[:json], do: json(rows), else: table(rows, host, port))

      {:error, reason} ->
        Mix.raise("no EPMD answers at #{host}, port #{port}: #{:inet.format_error(reason)}")
    end
  end

  defp host!([]), do: "127.0.0.1"
  defp host!([host]), do: host
  defp host!(hosts), do: Mix.raise("expected one HOST at most, got: #{Enum.join(hosts, " ")}")

  defp resolve!(host) do
    name = String.to_charlist(host)

    with {:error, _} <- :inet.getaddr(name, :inet),
         {:error, reason} <- :inet.getaddr(name, :inet6) do
      Mix.raise("the host #{host} has no address: #{:inet.format_error(reason)}")
    else
      {:ok, ip} -> ip
    end
  end

  defp table([], host, port), do: "no node is registered at #{host}, port #{port}"

  defp table(rows, _host, _port) do
    rows = [{"NAME", "PORT", "ADDRESS"} | for({name, port, ip} <- rows, do: {name, to_string(port), ip})]
    width = rows |> Enum.map(fn {name, _, _} -> String.length(name) end) |> Enum.max()

    Enum.map_join(rows, "\n", fn {name, port, ip} ->
      String.pad_trailing(name, width) <> "  " <> String.pad_leading(port, 5) <> "  " <> ip
    end)
  end

  defp json(rows) do
    objects = for {name, port, ip} <- rows, do: ~s({"name": #{quoted(name)}, "port": #{port}, "address": "#{ip}"})
    "[" <> Enum.join(objects, ", ") <> "]"
  end

  # What the listing of an EPMD may hold and JSON may not hold as it is. Bytes that are not UTF-8 are read as Latin-1.
  defp quoted(text) do
    characters = if String.valid?(text), do: String.to_charlist(text), else: :binary.bin_to_list(text)
    "\"" <> Enum.map_join(characters, &escape/1) <> "\""
  end

  defp escape(?"), do: ~S(\")
  defp escape(?\\), do: ~S(\\)
  defp escape(char) when char < 0x20, do: "\\u" <> String.pad_leading(Integer.to_string(char, 16), 4, "0")
  defp escape(char), do: <<char::utf8>>
end
