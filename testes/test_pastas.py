"""De que classe é cada foto, só pelos nomes; e o caminho que a pessoa quis dizer."""

import os
import unicodedata
import zipfile

import pytest

from detector.acervo import com_classe, da_pasta, do_zip
from detector.ambiente import ErroClaro, caminho
from detector.conversao import sem_repetidas
from detector.pastas import entende, legivel, visiveis


def nomes(*lugares):
    """Três fotos em cada lugar: «gatos», ou «train/cat.», que vira train/cat.0.jpg."""
    return [f"{x}{i}.jpg" if x[-1:] == "." else f"{x}/{i}.jpg" for x in lugares for i in range(3)]


ENTENDIDAS = {  # os lugares das fotos: as duas classes, e quantas fotos ficam sem nenhuma
    "train/cat. train/dog. test1": ("cat dog", 3),
    "train/cats train/dogs validation/cats validation/dogs": ("cats dogs", 0),
    "training_set/training_set/cats training_set/training_set/dogs": ("cats dogs", 0),
    "d/training_set/cats d/training_set/dogs d/single/cat_or_dog_.": ("cats dogs", 3),
    "gatos gatos/2024 cães/2023 cães/2024": ("cães gatos", 0),
    "2023/gatos 2024/gatos 2023/caes": ("caes gatos", 0),
    "cat_train dog_train cat_test": ("cat dog", 0),
    "train/Cat train/Dog test/cats": ("cat dog", 0),
    "train/cats train/dogs x/train/cats x/train/dogs": ("cats dogs", 0),
    "a/dog. b/cat. b/x/dog.": ("cat dog", 0),
    "Gato_. dog-. foto.": ("cat dog", 3),
    "images/cats images/dogs masks/cats masks/dogs": ("cats dogs", 6),
    "fotos desenhos": ("desenhos fotos", 0),
    "with_mask without_mask": ("with_mask without_mask", 0),
    "train/sim train/nao eval/sim pred": ("nao sim", 3),
    "class_0 class_1": ("class_0 class_1", 0),
    "Gato-1 Gato-2": ("Gato-1 Gato-2", 0),
    "foto-犬 foto-猫": ("foto-犬 foto-猫", 0),
    "train/n02102040 train/n02979186 val/n02102040": ("n02102040 n02979186", 0),
    "train/hot_dog train/not_hot_dog": ("hot_dog not_hot_dog", 0),
    "maca maca/a. maca/b. maca/cat. uva uva/a. uva/b. uva/dog.": ("maca uva", 0),
    "doente/2023 doente/2024 saudavel/2023 saudavel/2024": ("doente saudavel", 0),
    "rosas/rosas rosas/tulipas": ("rosas tulipas", 0),
    "rosas/jardim tulipas/praca": ("rosas tulipas", 0),
    "persa/cat. siames/cat.": ("persa siames", 0),
    "gatos/cat. gatos/dog.": ("cat dog", 0),
    "x/treino/rosas x/teste/rosas x/treino/tulipas x/teste .": ("rosas tulipas", 6),
    f"{unicodedata.normalize('NFD', 'treino/cães')} teste/cães teste/lobos": ("cães lobos", 0),
}


@pytest.mark.parametrize("lugares", ENTENDIDAS)
def test_as_duas_classes_sao_achadas_onde_estiverem(lugares):
    classes, sem_classe = ENTENDIDAS[lugares]
    fotos = nomes(*lugares.split())
    lidas = entende(fotos, "p")
    assert {lida.classe for lida in lidas.values()} == set(classes.split())
    assert len(fotos) - len(lidas) == sem_classe


@pytest.mark.parametrize(
    "lugares, dito",
    [
        ("cats dogs panda", r"3 classes em .*p \(cats, dogs, panda\)"),
        ("train/rosas train/lirios test/tulipas", "3 classes"),
        ("um/rosas um/lirios dois/rosas dois/lirios", "classes são dois e um ou lirios e rosas"),
        ("a/rosas a/lirios b/rosas b/lirios c/lirios", "não sei se as classes são a e b e c"),
        ("cats_train cats_test1", "não duas classes: são"),
        ("valid invalid", r"não duas classes \(tomei valid por"),
        ("train test1", "há 6 fotos em .*não duas classes.*cat.1.jpg"),
        ("images annotations/trimaps", r"não duas classes \(tomei annotations, trimaps por"),
        ("seg_train seg_pred", "não duas classes: são"),
        ("cat.", "se essa pasta é uma das classes, aponte para a que a contém, /alto."),
    ],
)
def test_o_que_e_ambiguo_e_recusado_dizendo_para_onde_apontar(lugares, dito):
    with pytest.raises(ErroClaro, match=f"(?i){dito}"):
        entende(nomes(*lugares.split()), "/alto/p")


def test_da_pasta_saem_os_arquivos_da_pessoa_e_nao_os_do_sistema(tmp_path, monkeypatch):
    """Nem os de um atalho que volta à pasta; e a que não pode ser lida é dita."""
    do_sistema = ["Thumbs.db", ".x/c", "__MACOSX/b.png", "@eaDir/d.jpg", "Icon\r", "a/desktop.ini"]
    for nome in ("b.png", "a/z.png", *do_sistema):
        (tmp_path / nome).parent.mkdir(exist_ok=True)
        (tmp_path / nome).touch()
    (tmp_path / "a/volta").symlink_to(tmp_path)
    (tmp_path / "a/de_novo").symlink_to(tmp_path / "a")
    assert sorted(visiveis(tmp_path)) == ["a/z.png", "b.png"]

    def proibida(pasta):
        raise PermissionError(13, "Permission denied", pasta)

    monkeypatch.setattr(os, "scandir", proibida)
    with pytest.raises(ErroClaro, match=rf"{tmp_path.name} \(Permission denied\)"):
        list(visiveis(tmp_path))


def test_o_caminho_colado_e_o_que_a_pessoa_quis_dizer(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    foto = tmp_path / unicodedata.normalize("NFD", "meu cão.jpg")
    foto.touch()
    composto = tmp_path / "meu cão.jpg"
    for colado in (foto, composto, f'"{composto}" ', f"'{foto}'", foto.as_uri(), "~/meu cão.jpg"):
        assert caminho(colado) == foto
    assert caminho("nao-existe.jpg").name == "nao-existe.jpg"


def test_um_nome_que_nao_e_utf8_sai_como_a_pessoa_o_escreveu():
    """E dois nomes que nem assim se leem não viram o mesmo."""
    assert legivel(os.fsdecode(b"ma\xe7\xe3.jpg")) == "maçã.jpg"
    assert legivel(b"\x81.jpg") != legivel(b"\x8d.jpg")


@pytest.mark.parametrize("codigo", ["NFC utf-8", "NFD utf-8", "NFC cp850"])
def test_um_zip_que_nao_diz_o_seu_codigo_e_lido_no_do_macos_ou_no_do_windows(codigo, tmp_path):
    forma, codigo = codigo.split()
    cru = unicodedata.normalize(forma, "cães").encode(codigo)
    no_lugar = b"x" * len(cru)
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as z:
        z.writestr(f"{no_lugar.decode()}/0.jpg", "")
    sem_marca = (tmp_path / "f.zip").read_bytes()
    (tmp_path / "f.zip").write_bytes(sem_marca.replace(no_lugar, cru))
    with do_zip(tmp_path / "f.zip") as [foto]:
        assert unicodedata.normalize("NFC", foto.nome) == "cães/0.jpg"


def test_a_foto_repetida_fica_uma_vez_e_a_que_esta_nas_duas_classes_nenhuma(tmp_path, capsys):
    """A vazia não é cópia de outra vazia: quem a abrir dirá o que ela tem."""
    conteudos = {"cats/0.jpg": b"a", "cats/1.jpg": b"b", "cats/v.jpg": b"", "dogs/0.jpg": b"c"}
    conteudos |= {"dogs/1.jpg": b"b", "dogs/v.jpg": b"", "test/cats/9.jpg": b"a"}
    for nome, conteudo in conteudos.items():
        (tmp_path / nome).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / nome).write_bytes(conteudo)
    lidas = sem_repetidas(com_classe(da_pasta(tmp_path), tmp_path))
    ficam = ["cats/0.jpg", "cats/v.jpg", "dogs/0.jpg", "dogs/v.jpg"]
    assert [foto.nome for foto in lidas] == ficam
    dito = capsys.readouterr().out
    assert "deixei de lado 1 foto repetida: test/cats/9.jpg" in dito
    assert "2 fotos que estão, iguais, nas duas classes: cats/1.jpg, dogs/1.jpg" in dito
    for nome in ficam[1:]:
        (tmp_path / nome).unlink()
    with pytest.raises(ErroClaro, match="as de dogs estão, iguais, nas duas classes"):
        sem_repetidas(com_classe(da_pasta(tmp_path), tmp_path))
