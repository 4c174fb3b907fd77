defmodule EmbeddedEpmd.Departed do
  @moduledoc false
  # The names that left the table, as `EmbeddedEpmd.departed/0` lists them.

  alias EmbeddedEpmd.Native

  @spec read(Native.server()) :: {:ok, [EmbeddedEpmd.departed()]} | {:error, :no_table}
  def read(server) do
    case Native.departed(server) do
      :elsewhere -> {:error, :no_table}
      departed -> {:ok, Enum.map(departed, &departed/1)}
    end
  end

  defp departed({name, port, registered, left, times, since}) do
    %{
      name: name,
      port: port,
      registered: DateTime.from_unix!(registered, :millisecond),
      left: DateTime.from_unix!(left, :millisecond),
      times: times,
      since: if(times > 0, do: DateTime.from_unix!(since, :millisecond))
    }
  end
end
