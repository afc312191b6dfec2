# SPDX-License-Identifier: Apache-2.0
"""What moves on the page of a run: pointing at charts, picking a class, sorting, enlarging. It reads well without.

The script only reads what stands in the page and writes text, never markup: names from data stay names.
"""

from typing import Final

SCRIPT: Final = """'use strict';(()=>{
const NS='http://www.w3.org/2000/svg',all=(s,r=document)=>[...r.querySelectorAll(s)];
const make=(tag,cls,text)=>{const e=document.createElement(tag);if(cls)e.className=cls;
 if(text!=null)e.textContent=text;return e};
const shape=(tag,cls)=>{const e=document.createElementNS(NS,tag);e.setAttribute('class',cls);return e};
const num=v=>Number.isInteger(v)?v.toLocaleString('en'):Math.abs(v)>=1000?Math.round(v).toLocaleString('en'):
 Math.abs(v)>=1?String(+v.toPrecision(4)):Math.abs(v)<1e-3&&v?v.toExponential(1):v.toFixed(3);
const scale=t=>{const[a,b,p,q]=t.split(',').map(Number);return v=>q===p?a:a+(v-p)/(q-p)*(b-a)};

function points(g){if(!g._p){const p=g.querySelector('polyline');
 g._p=p?p.getAttribute('points').trim().split(/\\s+/).map(s=>s.split(',').map(Number)):[]}return g._p}
function nearest(p,x){let a=0,b=p.length-1;while(b-a>1){const m=(a+b)>>1;if(p[m][0]<x)a=m;else b=m}
 return Math.abs(p[a][0]-x)<=Math.abs(p[b][0]-x)?p[a]:p[b]}
function hover(svg){if(!svg.dataset.x)return;
 const fx=scale(svg.dataset.x),fy=scale(svg.dataset.y),stage=svg.parentNode,tip=make('div','tip');
 const hair=shape('line','hair'),beads=shape('g','');let shown=false;
 const hide=()=>{if(shown){tip.remove();hair.remove();beads.remove();shown=false}};
 svg.addEventListener('pointerleave',hide);
 svg.addEventListener('pointermove',e=>{
  const m=svg.getScreenCTM();if(!m)return;const x=(e.clientX-m.e)/m.a,pick=svg.closest('.pick');
  const lines=all('g.line[data-name]',svg).filter(g=>!g.classList.contains('off')&&points(g).length>1&&
   (!pick||g.classList.contains('chief')||g.classList.contains('on')));
  if(!lines.length){hide();return}
  const rows=lines.map(g=>[g,nearest(points(g),x)]).sort((a,b)=>a[1][1]-b[1][1]);
  const at=rows.reduce((b,r)=>Math.abs(r[1][0]-x)<Math.abs(b-x)?r[1][0]:b,rows[0][1][0]);
  const box=svg.viewBox.baseVal;hair.setAttribute('x1',at);hair.setAttribute('x2',at);
  hair.setAttribute('y1',10);hair.setAttribute('y2',box.height-30);beads.replaceChildren();
  tip.replaceChildren(make('b','',(svg.dataset.xn||'x')+' '+num(fx(at))));
  for(const[g,p]of rows){const c=[...g.classList].find(n=>/^c\\d$/.test(n))||'';
   const bead=shape('circle','bead '+c);
   bead.setAttribute('cx',p[0]);bead.setAttribute('cy',p[1]);bead.setAttribute('r',4);
   const style=getComputedStyle(g).getPropertyValue('--c');bead.style.setProperty('--c',style);beads.append(bead);
   const row=make('div'),name=make('span'),dot=make('i');dot.style.setProperty('--c',style);
   name.append(dot,g.dataset.name);row.append(name,make('b','',num(fy(p[1]))));tip.append(row)}
  if(!shown){stage.append(tip);svg.append(hair,beads);shown=true}
  const r=stage.getBoundingClientRect(),px=e.clientX-r.left,w=tip.offsetWidth;
  tip.style.transform='translate('+Math.max(0,Math.min(px+16+w>r.width?px-w-16:px+16,r.width-w))+'px,8px)'})}
all('.chart svg').forEach(hover);

function pick(scope,name){
 all('.chart.pick',scope).forEach(c=>{let on=false;all('g.line.many',c).forEach(g=>{const yes=g.dataset.name===name;
   g.classList.toggle('on',yes);if(yes){on=true;g.parentNode.append(g)}});
  c.classList.toggle('picking',on);const s=c.querySelector('select');if(s)s.value=on?name:''});
 all('.sorts tbody tr',scope).forEach(r=>r.classList.toggle('on',!!name&&r.dataset.name===name))}
all('section').forEach(s=>{if(!s.querySelector('.chart.pick select'))return;s.classList.add('picks');
 s.addEventListener('change',e=>{if(e.target.closest('.chart.pick')&&e.target.matches('select'))pick(s,e.target.value)});
 all('.sorts tbody tr',s).forEach(r=>r.addEventListener('click',
  ()=>pick(s,r.classList.contains('on')?'':r.dataset.name)))});

all('.chart button.chip').forEach(b=>b.addEventListener('click',()=>{
 const on=b.getAttribute('aria-pressed')!=='true',f=b.closest('.chart');b.setAttribute('aria-pressed',on);
 all('svg [data-name]',f).forEach(g=>{if(g.dataset.name===b.textContent)g.classList.toggle('off',!on)})}));

all('.sorts').forEach(t=>{const body=t.tBodies[0];
 all('thead th',t).forEach((th,k)=>{th.firstChild.addEventListener('click',()=>{
 const text=th.classList.contains('text'),was=th.getAttribute('aria-sort');
 const down=was?was==='ascending':!text;all('thead th',t).forEach(o=>o.removeAttribute('aria-sort'));
 th.setAttribute('aria-sort',down?'descending':'ascending');
 const key=r=>{const c=r.cells[k];return'v'in c.dataset?(c.dataset.v===''?-Infinity:+c.dataset.v):c.textContent};
 const by=(a,b)=>typeof a==='number'&&typeof b==='number'?a-b:String(a).localeCompare(String(b));
 body.append(...[...body.rows].map(r=>[key(r),r]).sort((a,b)=>by(a[0],b[0])*(down?-1:1)).map(p=>p[1]))})})});

all('.tools').forEach(t=>{const s=t.closest('section'),range=t.querySelector('input[type=range]');
 const truth=t.querySelector('input[type=checkbox]'),out=t.querySelector('output');
 const act=()=>{out.textContent=(+range.value).toFixed(2);all('.view [data-score]',s).forEach(e=>
  e.classList.toggle('low',+e.dataset.score<+range.value));s.classList.toggle('hide-truth',!truth.checked)};
 range.addEventListener('input',act);truth.addEventListener('change',act);act()});

const dialog=document.querySelector('dialog');
if(dialog&&dialog.showModal){all('.view svg').forEach(v=>v.addEventListener('click',()=>{
  const words=v.parentNode.querySelector('.words');
  dialog.replaceChildren(v.cloneNode(true),make('p','',words?words.textContent:''));
  dialog.className=v.closest('section').classList.contains('hide-truth')?'view hide-truth':'view';dialog.showModal()}));
 dialog.addEventListener('click',()=>dialog.close())}

const links=all('nav a');if(links.length&&'IntersectionObserver'in window){const seen=new Map();
 const watch=new IntersectionObserver(es=>{es.forEach(e=>seen.set(e.target.id,e.isIntersecting));
  const first=links.find(a=>seen.get(a.hash.slice(1)));links.forEach(a=>a.classList.toggle('here',a===first))},
  {rootMargin:'-60px 0px -60% 0px'});
 links.forEach(a=>{const s=document.getElementById(a.hash.slice(1));if(s)watch.observe(s)})}
})();"""
